//! What Kafka answers, by what the user can do about it.

use rdkafka::types::RDKafkaErrorCode as Code;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing is known about the request; it may be tried again.
    #[error("kafka at {servers} did not answer: {reason}. Check the address and the network")]
    Unreachable { servers: String, reason: String },
    #[error(
        "kafka at {servers} refused the login: {reason}. Check mechanism, user and password, or the certificates"
    )]
    Authentication { servers: String, reason: String },
    #[error("kafka does not allow to {what}: {reason}. Give the principal the right")]
    Denied { what: String, reason: String },
    /// A value that Kafka does not take, or a policy of the cluster.
    #[error("kafka refused to {what}: {reason}")]
    Invalid { what: String, reason: String },
    #[error("topic '{0}' does not exist")]
    UnknownTopic(String),
    #[error("topic '{0}' exists already")]
    TopicExists(String),
    /// The topic of that name is another than the one meant.
    #[error(
        "topic '{topic}' has id '{found}', not '{expected}': it was created anew by somebody else and is left alone"
    )]
    OtherTopic {
        topic: String,
        expected: String,
        found: String,
    },
    /// The client could not be made: a value that librdkafka does not take.
    #[error("the kafka client cannot be configured: {reason}")]
    Configuration { reason: String },
    #[error("kafka failed to {what}: {reason}")]
    Other { what: String, reason: String },
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether the same request may succeed later without anybody changing anything.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Other { .. })
    }

    pub(crate) fn from_code(
        servers: &str,
        what: &str,
        topic: &str,
        code: Code,
        reason: String,
    ) -> Self {
        let what = what.to_owned();
        match code {
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownTopicId => {
                Self::UnknownTopic(topic.to_owned())
            }
            Code::TopicAlreadyExists => Self::TopicExists(topic.to_owned()),
            Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed => Self::Denied { what, reason },
            Code::InvalidTopic
            | Code::InvalidPartitions
            | Code::InvalidReplicationFactor
            | Code::InvalidReplicaAssignment
            | Code::InvalidConfig
            | Code::InvalidRequest
            | Code::InvalidArgument
            | Code::PolicyViolation
            | Code::TopicDeletionDisabled => Self::Invalid { what, reason },
            Code::SaslAuthenticationFailed | Code::Authentication => Self::Authentication {
                servers: servers.to_owned(),
                reason,
            },
            code if is_unreachable(code) => Self::Unreachable {
                servers: servers.to_owned(),
                reason,
            },
            _ => Self::Other { what, reason },
        }
    }
}

/// Codes that say that no broker answered, or not the right one.
pub fn is_unreachable(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::MessageTimedOut
            | Code::TimedOutQueue
            | Code::RequestTimedOut
            | Code::WaitingForCoordinator
            | Code::CoordinatorNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::NotCoordinator
            | Code::NotController
            | Code::NotLeaderForPartition
            | Code::LeaderNotAvailable
            | Code::BrokerNotAvailable
            | Code::NetworkException
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::UnknownBroker
    )
}
