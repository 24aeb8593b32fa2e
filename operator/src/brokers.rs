//! Connections for administration: one for each Kafka cluster in use, closed when idle.
//!
//! librdkafka's calls block, so they run on tokio's blocking threads, one at a time per connection.
//! Passwords and certificates are held in memory, by connection, for as long as it is open or needed
//! to delete topics; they are never printed.

use headwater_kafka::{Error, Settings, admin::Admin};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bounds one request to Kafka.
const REQUEST: Duration = Duration::from_secs(10);
/// After so long without a request a connection is closed, and its threads with it.
const IDLE: Duration = Duration::from_secs(30);

/// Which connection: namespace, KafkaCluster, and the version of what it was made from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) cluster: String,
}

struct Open {
    /// Identifies settings and the versions of Secrets in them.
    version: String,
    used: Instant,
    admin: Arc<Mutex<Admin>>,
}

/// All open connections.
#[derive(Default)]
pub(crate) struct Brokers {
    open: Mutex<HashMap<Key, Open>>,
}

impl Brokers {
    /// Runs `work` with a connection of these settings, on a thread that may block.
    pub(crate) async fn with<T: Send + 'static>(
        &self,
        key: &Key,
        version: &str,
        settings: &Settings,
        work: impl FnOnce(&Admin) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let admin = self.connection(key, version, settings)?;
        let done = tokio::task::spawn_blocking(move || {
            let admin = admin.lock().unwrap_or_else(PoisonError::into_inner);
            work(&admin)
        })
        .await;
        self.touch(key);
        done.unwrap_or_else(|failure| {
            Err(Error::Other {
                what: "talk to kafka".to_owned(),
                reason: failure.to_string(),
            })
        })
    }

    fn connection(
        &self,
        key: &Key,
        version: &str,
        settings: &Settings,
    ) -> Result<Arc<Mutex<Admin>>, Error> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = open.get_mut(key).filter(|found| found.version == version) {
            found.used = Instant::now();
            return Ok(Arc::clone(&found.admin));
        }
        let admin = Arc::new(Mutex::new(Admin::new(settings, REQUEST)?));
        let entry = Open {
            version: version.to_owned(),
            used: Instant::now(),
            admin: Arc::clone(&admin),
        };
        open.insert(key.clone(), entry);
        Ok(admin)
    }

    fn touch(&self, key: &Key) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = open.get_mut(key) {
            found.used = Instant::now();
        }
    }

    /// Closes what has been idle for long. Closing joins threads, so it happens on a blocking one.
    pub(crate) async fn close_idle(&self) {
        let idle: Vec<Open> = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            let keys: Vec<Key> = open
                .iter()
                .filter(|(_, entry)| entry.used.elapsed() > IDLE)
                .map(|(key, _)| key.clone())
                .collect();
            keys.iter().filter_map(|key| open.remove(key)).collect()
        };
        if !idle.is_empty() {
            // A failure here would only mean that the runtime is shutting down.
            let _closed = tokio::task::spawn_blocking(move || drop(idle)).await;
        }
    }
}
