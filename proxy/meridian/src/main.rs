//! Meridian, a layer-7 global edge proxy and load balancer.
//!
//! Promises: one line on standard error for what goes wrong; exit codes 0 (well), 1 (failed), 2 (usage).
//! Refuses to know: what the commands do.

mod admin_client;
mod cli;
mod commands;
mod demo;
mod handover;
mod http_client;
mod logging;
mod percent;
mod reasons;
mod run;
mod service_manager;
mod table;
mod target;
mod version;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use meridian_control::views;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let mut out = io::stdout();
    let done = commands::execute(cli, &mut out).and_then(|verdict| {
        out.flush()?;
        Ok(verdict)
    });
    match done {
        Ok(verdict) => verdict.into(),
        Err(error) if reader_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // When standard error is closed there is nobody left to tell.
            let _ = writeln!(io::stderr(), "meridian: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `meridian regions | head -1` is no failure.
fn reader_gone(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
