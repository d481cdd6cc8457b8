//! `meridian demo`: simulated regions, one of them or all with an edge and traffic.
//!
//! Promises: everything it starts ends with it. Refuses to know: how an edge works; it uses the one that
//! `meridian run` runs.

mod answer;
mod clients;
mod display;
mod edge_config;
mod keys;
mod ledger;
mod live;
mod places;
mod region;
mod replicate;
mod scene;
mod stage;
mod store;
mod story;
mod summary;
mod traffic;
mod websocket;
mod world;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Args;

use self::places::known_region;
use self::region::{Region, RegionSpec, Role};
use self::stage::{Ports, Stage};
use self::traffic::DEFAULT_RATE;
use crate::cli::{LogLines, OutputArg};
use crate::commands::Verdict;
use crate::logging;
use crate::run::Termination;

/// Where a single region listens unless told otherwise.
const REGION_PORT: u16 = 3000;

/// Without options: four regions, an edge and live traffic, with keys to disturb them.
#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    /// Run a scripted story without keys, print a summary and end; exit code 1 if something failed
    #[arg(long, conflicts_with = "region")]
    once: bool,
    /// With --once: seconds of undisturbed traffic before the story
    #[arg(long, value_name = "N", default_value_t = 5, requires = "once")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    #[command(flatten)]
    output: OutputArg,
    /// Requests a second
    #[arg(long, value_name = "N", default_value_t = DEFAULT_RATE, conflicts_with = "region")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,
    /// Where the edge's admin endpoint listens [default: 127.0.0.1:9901, or a free port if that is taken]
    #[arg(long, value_name = "ADDRESS", conflicts_with = "region")]
    admin: Option<SocketAddr>,
    /// Where the edge listens [default: 127.0.0.1:8080, or a free port if that is taken]; with --region
    /// where the region does [default: 0.0.0.0:3000]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    single: SingleArgs,
}

/// One simulated region as a process of its own.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "One simulated region as a backend")]
struct SingleArgs {
    /// Be this region and nothing else: no edge, no traffic
    #[arg(long, value_name = "ID")]
    region: Option<String>,
    /// Whether it takes writes [default: the primary is us-east-1, or a region that follows nobody]
    #[arg(long, requires = "region")]
    role: Option<Role>,
    /// The epoch it claims
    #[arg(long, value_name = "N", default_value_t = 1, requires = "region")]
    epoch: u64,
    /// Follow the primary at this address: HOST:PORT
    #[arg(long, value_name = "ADDRESS", requires = "region")]
    primary: Option<String>,
    /// Simulated round trip, added to every answer
    #[arg(long, value_name = "N", default_value_t = 0, requires = "region")]
    distance_ms: u64,
    /// How far it stays behind the primary
    #[arg(long, value_name = "N", requires = "region")]
    lag_ms: Option<u64>,
    /// Obey POST /_demo/kill, /_demo/revive, /_demo/lag?ms=N and /_demo/distance?ms=N
    #[arg(long, requires = "region")]
    control: bool,
}

/// Runs it until it is over, or a signal ends it.
///
/// # Errors
/// When something it needs cannot be had.
pub(crate) fn run(args: &DemoArgs, logs: LogLines, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut termination = Termination::catch()?;
        match &args.single.region {
            Some(id) => {
                logging::start(logs, "info", None)?;
                alone(args.single.spec(id, args.listen), &mut termination).await
            }
            None => embedded(args, logs, &mut termination, out).await,
        }
    })
}

async fn alone(spec: RegionSpec, termination: &mut Termination) -> anyhow::Result<Verdict> {
    let address = spec.listen;
    let region = Region::start(spec)
        .map_err(|error| anyhow::anyhow!("cannot listen on {address}: {error}"))?;
    let RegionSpec { id, role, follows, .. } = &region.state.spec;
    let follows = follows.as_deref().unwrap_or("nobody");
    tracing::info!(region = %id, %role, address = %region.address, follows, "answering");
    termination.next().await;
    Ok(Verdict::Fine)
}

async fn embedded(
    args: &DemoArgs,
    logs: LogLines,
    termination: &mut Termination,
    out: &mut dyn Write,
) -> anyhow::Result<Verdict> {
    let ports = Ports::allocate(args.listen, args.admin)?;
    let mut stage = Stage::open(ports, args.rate, logs)?;
    let calm = Duration::from_secs(args.seconds);
    let play = async {
        stage.ready().await?;
        if args.once {
            return story::play(&mut stage, calm, args.output.output, out).await;
        }
        live::watch(&mut stage, out).await
    };
    let verdict = tokio::select! {
        verdict = play => verdict,
        () = termination.next() => Ok(Verdict::Fine),
    };
    let fine = matches!(verdict, Ok(Verdict::Fine));
    stage.close(fine, termination).await?;
    verdict
}

impl SingleArgs {
    fn spec(&self, id: &str, listen: Option<SocketAddr>) -> RegionSpec {
        let known = known_region(id);
        let role = match (self.role, &self.primary, known) {
            (Some(role), _, _) => role,
            (None, Some(_), _) => Role::Replica,
            (None, None, Some(known)) => known.role,
            (None, None, None) => Role::Primary,
        };
        let lag = self.lag_ms.map(Duration::from_millis);
        RegionSpec {
            id: id.to_owned(),
            listen: listen.unwrap_or((Ipv4Addr::UNSPECIFIED, REGION_PORT).into()),
            role,
            epoch: self.epoch,
            follows: self.primary.clone(),
            distance: Duration::from_millis(self.distance_ms),
            lag: lag.or(known.map(|known| known.lag)).unwrap_or_default(),
            controlled: self.control,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn spec(line: &str) -> RegionSpec {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Demo(args) => {
                args.single.spec(args.single.region.as_deref().unwrap(), args.listen)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_single_region_knows_what_it_is() {
        let primary = spec("meridian demo --region us-east-1");
        assert_eq!(
            (primary.role, primary.listen.to_string()),
            (Role::Primary, "0.0.0.0:3000".into())
        );
        let replica = spec("meridian demo --region eu-west-1 --listen 127.0.0.1:0");
        assert_eq!((replica.role, replica.lag), (Role::Replica, Duration::from_millis(400)));
        let follower = spec("meridian demo --region x --primary 127.0.0.1:3000 --lag-ms 0");
        assert_eq!((follower.role, follower.lag), (Role::Replica, Duration::ZERO));
        assert_eq!(spec("meridian demo --region x").role, Role::Primary);
        assert_eq!(spec("meridian demo --region us-east-1 --role replica").role, Role::Replica);
    }

    #[test]
    fn options_of_the_other_kind_are_refused() {
        for line in [
            "meridian demo --lag-ms 5",
            "meridian demo --control",
            "meridian demo --region x --once",
            "meridian demo --region x --rate 5",
            "meridian demo --rate 0",
            "meridian demo --seconds 3",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
