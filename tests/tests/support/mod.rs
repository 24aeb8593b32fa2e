//! What the tests on real systems share.

pub mod cluster;
pub mod image;
pub mod kafka;
pub mod process;
