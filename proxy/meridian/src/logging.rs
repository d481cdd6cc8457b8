//! The program's own log lines, on standard error.

use std::fs::File;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::cli::LogLines;

/// Says how much is logged, such as `info` or `warn,edge=debug`.
const VARIABLE: &str = "MERIDIAN_LOG";

/// Who changed what is logged whatever the filter says.
const AUDIT: &str = "audit=info";

/// Logs to standard error, or to a file, from here on. `MERIDIAN_LOG` filters all but the
/// audit trail; `default` without it.
///
/// # Errors
/// When the filter or the file cannot be used.
pub(crate) fn start(format: LogLines, default: &str, file: Option<&Path>) -> anyhow::Result<()> {
    let filter = std::env::var(VARIABLE).unwrap_or_else(|_| default.to_owned());
    let filter =
        EnvFilter::try_new(filter).with_context(|| VARIABLE)?.add_directive(AUDIT.parse()?);
    let (writer, colour) = match file {
        Some(path) => {
            let file = File::create(path).with_context(|| path.display().to_string())?;
            (BoxMakeWriter::new(Arc::new(file)), false)
        }
        None => (BoxMakeWriter::new(std::io::stderr), std::io::stderr().is_terminal()),
    };
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colour);
    let started = match format {
        LogLines::Text => lines.try_init(),
        LogLines::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow!("the log cannot be started: {error}"))
}
