//! An endpoint as a process: `meridian-test-region NAME ADDRESS`. Ends when its standard input does.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use meridian_tests::{Answer, Backend};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(Ok(address))) = (args.next(), args.next().map(|a| a.parse())) else {
        let _ = writeln!(io::stderr(), "usage: meridian-test-region NAME ADDRESS");
        return ExitCode::from(2);
    };
    let body = format!("{name}\n");
    let backend = Backend::answering_at(&name, address, move |request| {
        let id = request.header("x-request-id").unwrap_or("-");
        say(&format!("{} {} {id}", request.method, request.target));
        Answer::ok(body.clone())
    });
    let backend = match backend {
        Ok(backend) => backend,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{address}: {error}");
            return ExitCode::FAILURE;
        }
    };
    say("listening");
    // The test holds the other end, and lets go of it however it ends.
    let _ = io::stdin().read_to_end(&mut Vec::new());
    drop(backend);
    ExitCode::SUCCESS
}

/// One line, written whole and at once: after a kill it must be there.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    // Without a reader there is nobody to tell.
    let _ = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
}
