//! The one way out by HTTP: to providers of models and servers of tools.
//!
//! No redirect is followed, since a credential would go with it, and nothing is sent to addresses that only the
//! machine or its cloud answers at: link-local ones, where metadata and credentials of machines are served,
//! multicast, broadcast and unspecified ones. A name is resolved once for each connection, and what it leads to is
//! checked then; in an address, whatever way it is written, the address counts.

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Url, redirect};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of an answer, decompressed.
pub const LIMIT: usize = 10 << 20;
/// Bytes of a refusal that are read.
pub(crate) const REFUSAL: usize = 16 << 10;
const CONNECT: Duration = Duration::from_secs(10);
const REFUSED: &str =
    "it is an address that nothing is sent to: link-local, multicast, broadcast or unspecified";

/// Where metadata of machines is served beside the link-local addresses: by Alibaba Cloud, and by AWS over IPv6.
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// # Errors
/// When TLS cannot be set up.
pub(crate) fn client() -> reqwest::Result<Client> {
    Client::builder()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT)
        .dns_resolver(Arc::new(Checked))
        .user_agent(concat!("headwater/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// A URL that something may be sent to.
///
/// # Errors
/// Why not, as what follows its name.
pub(crate) fn url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("its scheme is '{}'", url.scheme()));
    }
    // Names are checked when they are resolved.
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(address) if is_refused(address) => Err(REFUSED.to_owned()),
        _ => Ok(url),
    }
}

struct Checked;

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let kept: Vec<SocketAddr> = found.filter(|at| !is_refused(at.ip())).collect();
            if kept.is_empty() {
                return Err(format!(
                    "'{}' has no address but ones that nothing is sent to",
                    name.as_str()
                )
                .into());
            }
            Ok(Box::new(kept.into_iter()) as Addrs)
        })
    }
}

fn is_refused(address: IpAddr) -> bool {
    let address = match address {
        IpAddr::V6(six) => four_within(six).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    };
    METADATA.contains(&address)
        || match address {
            IpAddr::V4(four) => {
                // All of the first block is the machine's own (RFC 791, RFC 1122).
                four.octets()[0] == 0
                    || four.is_link_local()
                    || four.is_multicast()
                    || four.is_broadcast()
            }
            IpAddr::V6(six) => {
                six.is_unspecified() || six.is_multicast() || six.is_unicast_link_local()
            }
        }
}

/// The IPv4 address that an IPv6 one stands for: mapped, compatible, or by NAT64 (RFC 6052).
fn four_within(six: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = six.segments();
    let is_nat64 = segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    let is_compatible = segments[..6] == [0; 6] && segments[6] != 0;
    let [.., a, b, c, d] = six.octets();
    six.to_ipv4_mapped()
        .or_else(|| (is_nat64 || is_compatible).then(|| Ipv4Addr::new(a, b, c, d)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_the_machine_or_its_cloud_answers_at_is_refused_in_every_notation() {
        for refused in [
            "http://169.254.169.254/latest/meta-data",
            "http://0xa9fea9fe/",
            "http://2852039166/",
            "http://0251.0376.0251.0376/",
            "http://169.254.43518/",
            "http://[::ffff:169.254.169.254]/",
            "http://[::ffff:a9fe:a9fe]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://[::a9fe:a9fe]/",
            "http://[fe80::1]/",
            "http://[fd00:ec2::254]/",
            "http://100.100.100.200/",
            "http://0.0.0.0:8080/",
            "http://0/",
            "http://[::]/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
            "http://[ff02::1]/",
        ] {
            assert_eq!(url(refused).unwrap_err(), REFUSED, "{refused}");
        }
        for sent in [
            "http://10.0.0.7/mcp",
            "http://192.168.1.1/",
            "http://[fd12::1]/",
            "http://[2001:db8::1]/",
            "http://127.0.0.1:11434/v1",
            "http://[::1]:11434/v1",
            "https://models.example.com/v1",
            "http://169.254.169.254.example.com/",
        ] {
            assert!(url(sent).is_ok(), "{sent}");
        }
        assert!(url("ftp://a/").is_err());
    }

    #[tokio::test]
    async fn a_name_that_leads_there_is_refused_too() {
        // Names of the hosts file and of resolvers are read alike; numbers are names to the system's resolver.
        for name in ["169.254.169.254", "0.0.0.0"] {
            let resolved = Checked.resolve(name.parse().unwrap()).await;
            let error = resolved.err().unwrap().to_string();
            assert!(error.contains("nothing is sent to"), "{error}");
        }
        assert!(Checked.resolve("localhost".parse().unwrap()).await.is_ok());
    }
}
