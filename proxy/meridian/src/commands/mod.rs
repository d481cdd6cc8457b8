//! One module for each kind of command.
//!
//! Promises: each writes what it found to `out` and returns how it went; what it cannot do is an error.
//! Refuses to know: how the command line is parsed.

mod explain;
mod failover;
mod file;
mod follow;
mod history;
mod show;
mod steer;

use std::io::Write;
use std::process::ExitCode;

use anyhow::bail;
use clap::CommandFactory;
use serde_json::json;

pub(crate) use self::follow::{describe, follow as follow_events};
pub(crate) use self::show::{health, worst_lag};
use crate::admin_client::AdminAnswer;
use crate::cli::{Cli, Command, ConfigCommand, Output};
use crate::{demo, run, version};

/// Whether what was asked about is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fine,
    NotFine,
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Fine => Self::SUCCESS,
            Verdict::NotFine => Self::FAILURE,
        }
    }
}

/// Does what the command line asks for.
///
/// # Errors
/// What kept it from being done, in one line.
pub(crate) fn execute(cli: Cli, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let logs = cli.log_format;
    match cli.command {
        Command::Run { file, last_good } => run::run(&file.config, last_good, logs),
        Command::Check { file, strict, output } => {
            file::check(&file.config, strict, output.output, out)
        }
        Command::Config(ConfigCommand::Print { file, effective }) => {
            file::print(&file.config, effective, out)
        }
        Command::Demo(args) => demo::run(&args, logs, out),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "meridian", out);
            Ok(Verdict::Fine)
        }
        Command::Version { output } => print_version(output.output, out),
        asking => block_on(ask(asking, out)),
    }
}

/// Commands that ask a running edge.
async fn ask(command: Command, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    match command {
        Command::Status { edge, quiet, output } => {
            show::status(&edge, quiet, output.output, out).await
        }
        Command::Regions(asked) => show::regions(&asked, out).await,
        Command::Lag(asked) => show::lag(&asked, out).await,
        Command::Drain { change, session_grace, dry_run } => {
            steer::drain(&change, session_grace.as_deref(), dry_run, out).await
        }
        Command::Undrain { asked, target, force } => {
            steer::undrain(&asked, &target, force, out).await
        }
        Command::Weight { change, weight, reset: _ } => steer::weight(&change, weight, out).await,
        Command::Explain(args) => explain::explain(&args, out).await,
        Command::Primary(args) => steer::primary(&args, out).await,
        Command::Reload(asked) => steer::reload(&asked, out).await,
        Command::Upgrade(asked) => steer::upgrade(&asked, out).await,
        Command::Events(asked) => follow::events(&asked, out).await,
        Command::History(args) => history::history(&args, out).await,
        Command::Failover { to, args } => failover::operate("failover", to.to, &args, out).await,
        Command::Failback { args } => failover::operate("failback", None, &args, out).await,
        Command::Switchover { to, args } => {
            failover::operate("switchover", to.to, &args, out).await
        }
        other => bail!("{other:?} asks no edge"),
    }
}

fn block_on<T>(what: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(what)
}

fn print_version(output: Output, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let (version, revision) = (version::VERSION, version::REVISION);
    match output {
        Output::Table => writeln!(out, "meridian {version} ({revision})")?,
        Output::Json => {
            writeln!(out, "{}", json!({ "version": version, "revision": revision }))?;
        }
    }
    Ok(Verdict::Fine)
}

/// Exactly what the edge gave, and a line end.
fn pass_on(answer: &AdminAnswer, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    out.write_all(&answer.body)?;
    if !answer.body.ends_with(b"\n") {
        out.write_all(b"\n")?;
    }
    Ok(Verdict::Fine)
}
