//! Names of images, written out: what a pod calls `headwater:dev` a node stores as `docker.io/library/headwater:dev`.

/// The name with its registry, its folder and its tag.
pub(super) fn full_name(name: &str) -> String {
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => ("docker.io", name),
    };
    let folder = if registry == "docker.io" && !path.contains('/') {
        "library/"
    } else {
        ""
    };
    let tag = if path.contains(':') { "" } else { ":latest" };
    format!("{registry}/{folder}{path}{tag}")
}

#[cfg(test)]
mod tests {
    use super::full_name;

    #[test]
    fn names_are_completed_as_a_node_does() {
        for (name, expected) in [
            ("headwater", "docker.io/library/headwater:latest"),
            ("headwater:dev", "docker.io/library/headwater:dev"),
            ("me/headwater:dev", "docker.io/me/headwater:dev"),
            ("localhost/pause:1", "localhost/pause:1"),
            ("registry:5000/a/b", "registry:5000/a/b:latest"),
            ("registry.example/a:1", "registry.example/a:1"),
        ] {
            assert_eq!(full_name(name), expected);
        }
    }
}
