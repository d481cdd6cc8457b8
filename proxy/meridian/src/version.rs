//! What this program is.

/// The version of the package.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The source revision, where the build was told (`MERIDIAN_REVISION`).
pub(crate) const REVISION: &str = match option_env!("MERIDIAN_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
