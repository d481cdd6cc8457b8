//! The command line: what can be asked for.
//!
//! Promises: what parses is well-formed; everything else is exit code 2 with a usage line. Refuses to
//! know: how anything is done.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::demo::DemoArgs;
use crate::http_client::Address;
use crate::target::Target;

/// Meridian steers requests to the right region: a global edge proxy and load balancer.
#[derive(Debug, Parser)]
#[command(name = "meridian", version = crate::version::VERSION, max_term_width = 100)]
#[command(disable_help_subcommand = true, propagate_version = false)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// How the program's own log lines look (to standard error; MERIDIAN_LOG says how much)
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        default_value = "text",
        hide_possible_values = true
    )]
    pub(crate) log_format: LogLines,
}

/// How the program's own log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLines {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How a command prints what it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs: exactly what the edge answers.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run an edge
    Run {
        #[command(flatten)]
        file: ConfigFile,
        /// If the file is broken, start from the last configuration that was accepted
        #[arg(long)]
        last_good: bool,
    },
    /// Check a configuration file and name everything that is wrong with it
    Check {
        #[command(flatten)]
        file: ConfigFile,
        /// Take warnings as errors
        #[arg(long)]
        strict: bool,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Work with a configuration file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show how an edge is; exit code 0 if it is ready for traffic
    Status {
        #[command(flatten)]
        edge: EdgeArgs,
        /// Print nothing: the exit code tells
        #[arg(long, short)]
        quiet: bool,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show the regions: role, health, round trip, weight, drain
    Regions(Asked),
    /// Show how far the replicas are behind
    Lag(Asked),
    /// Take a region or an endpoint out of rotation; what is in flight finishes
    Drain {
        #[command(flatten)]
        change: ChangeArgs,
        /// So long, sessions still go to the endpoints they are bound to, such as 10m; default: the service's session_grace
        #[arg(long, value_name = "DURATION")]
        session_grace: Option<String>,
        /// Only say what would happen
        #[arg(long)]
        dry_run: bool,
    },
    /// Take a drain back
    Undrain {
        #[command(flatten)]
        asked: Asked,
        /// REGION, or SERVICE/ADDRESS for one endpoint
        target: Target,
        /// Put it in service even if the file drains it
        #[arg(long)]
        force: bool,
    },
    /// Set the weight of a region or an endpoint
    Weight {
        #[command(flatten)]
        change: ChangeArgs,
        /// The weight, 0 to 65535
        #[arg(required_unless_present = "reset", conflicts_with = "reset", value_name = "N")]
        #[arg(value_parser = clap::value_parser!(u32).range(0..=65_535))]
        weight: Option<u32>,
        /// Go back to the file's weight
        #[arg(long, conflicts_with_all = ["reason", "ttl"])]
        reset: bool,
    },
    /// Say which region would answer a request, and why
    Explain(ExplainArgs),
    /// Make an edge read its configuration file again
    Reload(Asked),
    /// Follow what happens at an edge, line by line, until interrupted
    Events(Asked),
    /// Show past changes of state of regions: when, why, by whom, how long, at what cost
    History(HistoryArgs),
    /// Start four simulated regions, an edge and live traffic on this machine
    Demo(DemoArgs),
    /// Print shell completions
    Completions { shell: Shell },
    /// Print the version
    Version {
        #[command(flatten)]
        output: OutputArg,
    },
    /// Move a service's writes to another region because their region is lost, or given up
    Failover {
        #[command(flatten)]
        to: CandidateArg,
        #[command(flatten)]
        args: OperationArgs,
    },
    /// Move a service's writes back to the region that the file names, without losing one
    Failback {
        #[command(flatten)]
        args: OperationArgs,
    },
    /// Move a service's writes to another region as planned, without losing one
    Switchover {
        #[command(flatten)]
        to: CandidateArg,
        #[command(flatten)]
        args: OperationArgs,
    },
    /// Name the primary of a service at this edge, or have what is known of its epochs forgotten
    Primary(PrimaryArgs),
    /// Let the program as it is on disk now take over a running edge, without losing a connection
    Upgrade(Asked),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print a configuration file that is correct
    Print {
        #[command(flatten)]
        file: ConfigFile,
        /// With all defaults filled in, as the program uses it
        #[arg(long)]
        effective: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ConfigFile {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = "/etc/meridian/meridian.toml")]
    pub(crate) config: PathBuf,
}

/// Which edge is asked, and as whom.
#[derive(Clone, Debug, Args)]
pub(crate) struct EdgeArgs {
    /// The edge's admin endpoint: HOST:PORT, or unix:/path
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9901")]
    pub(crate) admin: Address,
    /// A file with the bearer token to show
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputArg {
    /// For people or for programs
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Output,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Asked {
    #[command(flatten)]
    pub(crate) edge: EdgeArgs,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ChangeArgs {
    #[command(flatten)]
    pub(crate) asked: Asked,
    /// REGION, or SERVICE/ADDRESS for one endpoint
    pub(crate) target: Target,
    /// Why, for those who read it later
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// How long it lasts, in seconds, or such as 90s, 30m or 2h; without it, until taken back
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) asked: Asked,
    /// A path, or a URL that says host and path
    #[arg(value_name = "PATH_OR_URL", conflicts_with = "path")]
    pub(crate) url: Option<String>,
    /// The request's method
    #[arg(long, short, default_value = "GET")]
    pub(crate) method: String,
    /// The host that is asked for
    #[arg(long)]
    pub(crate) host: Option<String>,
    /// The path
    #[arg(long)]
    pub(crate) path: Option<String>,
    /// Who asks; without it, somebody whose place is not known
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) client: Option<IpAddr>,
    /// A header of the request; may be given several times
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE")]
    pub(crate) headers: Vec<String>,
    /// A name in the certificate that the client shows: a host, URI, mailbox or address; may be given several times
    #[arg(long, value_name = "NAME")]
    pub(crate) client_san: Vec<String>,
    /// How old the data may be at most, as the client would say; milliseconds
    #[arg(long, value_name = "N")]
    pub(crate) max_staleness_ms: Option<u64>,
    /// The request's body, for routes that classify GraphQL
    #[arg(long, value_name = "TEXT")]
    pub(crate) body: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    pub(crate) asked: Asked,
    /// Only of this service, and what concerns all
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// Only of this region, and what concerns all
    #[arg(long, value_name = "ID")]
    pub(crate) region: Option<String>,
    /// Only the last while, in seconds, or such as 90s, 30m, 12h or 7d
    #[arg(long, value_name = "DURATION")]
    pub(crate) since: Option<String>,
    /// At most so many of the newest
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) limit: u16,
    /// Go on with what happens, line by line, until interrupted
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// The same as --output json
    #[arg(long, conflicts_with = "output")]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PrimaryArgs {
    #[command(flatten)]
    pub(crate) asked: Asked,
    /// The region that is the primary; of two that claim one epoch the one that wins
    #[arg(required_unless_present = "forget", conflicts_with = "forget", value_name = "REGION")]
    pub(crate) region: Option<String>,
    /// The service; may be left out if there is one only
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// Its epoch, higher than any before; without it, the region's own, else the next
    #[arg(long, value_name = "N", conflicts_with = "forget")]
    pub(crate) epoch: Option<u64>,
    /// Forget the service's epochs and learn them anew: only after an endpoint has said an epoch that was nonsense, and
    /// once it says it no more. Writes stop until all endpoints were heard
    #[arg(long)]
    pub(crate) forget: bool,
    /// Why, for those who read it later
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CandidateArg {
    /// The region to promote; without it the best one by failover_order, lag and health
    #[arg(long, value_name = "REGION")]
    pub(crate) to: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct OperationArgs {
    #[command(flatten)]
    pub(crate) asked: Asked,
    /// The service; may be left out if there is one only
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// Why, for those who read it later
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Override the guards that may be overridden; --dry-run says which
    #[arg(long)]
    pub(crate) force: bool,
    /// Only say what would happen, and what would keep it from happening
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Give up after so long, in seconds, or such as 30s or 5m, and go back
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<String>,
}
