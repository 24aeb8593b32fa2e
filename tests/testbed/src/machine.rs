//! What the bed needs of the machine itself: root, Debian packages, the node address.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
};

use crate::{
    error::{Error, Result},
    fetch, layout, run,
};

/// Whether this process is root, which the node, and an address that pods can reach, need.
pub(crate) fn is_root() -> bool {
    // Lines of the form `Uid: real effective saved filesystem`.
    fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))
            .and_then(|ids| ids.split_ascii_whitespace().nth(1))
            == Some("0")
    })
}

/// The address on which the bed's servers listen: that of the node when root (it is made if missing), else 127.0.0.1.
pub(crate) fn server_address() -> &'static str {
    if is_root() {
        layout::NODE_ADDRESS
    } else {
        "127.0.0.1"
    }
}

/// Makes [`server_address`] usable.
pub(crate) fn make_server_address() -> Result<()> {
    let address = server_address();
    if has_address(address) {
        return Ok(());
    }
    fetch::apt::install(&[("ip", "iproute2")])?;
    let added = run::call(
        "ip",
        &["address", "add", &format!("{address}/32"), "dev", "lo"],
    );
    if has_address(address) {
        return Ok(());
    }
    added?;
    Err(Error::Unexpected {
        what: format!("address {address}"),
        detail: "nothing can listen there although it was added".to_owned(),
    })
}

/// Takes the node address away again.
pub(crate) fn remove_server_address() -> Result<()> {
    let address = server_address();
    if address != layout::NODE_ADDRESS || !has_address(address) {
        return Ok(());
    }
    run::call(
        "ip",
        &["address", "del", &format!("{address}/32"), "dev", "lo"],
    )?;
    Ok(())
}

fn has_address(address: &str) -> bool {
    TcpListener::bind((address, 0)).is_ok()
}

/// Addresses of DNS servers that pods can ask too: those of this machine, but for a resolver of its own on the loopback link.
pub(crate) fn name_servers() -> Vec<String> {
    // The second lists what systemd's own resolver asks, where the first names just that.
    let files = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
    files
        .iter()
        .map(|file| listed_servers(&fs::read_to_string(file).unwrap_or_default()))
        .find(|servers| !servers.is_empty())
        .unwrap_or_default()
}

fn listed_servers(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("nameserver "))
        .map(str::trim)
        .filter(|server| {
            server
                .parse::<Ipv4Addr>()
                .is_ok_and(|address| !address.is_loopback())
        })
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::listed_servers;

    #[test]
    fn own_resolver_is_left_out() {
        let text = "# made by hand\nsearch example\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver fd00::1\n";
        assert_eq!(listed_servers(text), ["192.0.2.1"]);
    }
}
