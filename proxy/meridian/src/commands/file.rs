//! Commands about a configuration file: `check`, `config print`.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use meridian_config::{Config, Finding, placed};
use meridian_control::{
    CertificateFinding, FileFinding, check_acme, check_alerts, check_files, load_certificates,
    unix_ms,
};
use meridian_routing::RouteMatcher;
use serde_json::json;

use super::Verdict;
use crate::cli::Output;

/// Says everything that is wrong with a file, and what is odd about it.
pub(super) fn check(
    file: &Path,
    strict: bool,
    output: Output,
    out: &mut dyn Write,
) -> anyhow::Result<Verdict> {
    let mut all_seen = true;
    let (errors, warnings) = match Config::load(file) {
        Ok(loaded) => {
            let (mut errors, mut warnings) = certificates(file, &loaded.config);
            errors.extend(unroutable(file, &loaded.config));
            errors.extend(unreachable(file, &loaded.config));
            warnings.extend(files(file, &loaded.config));
            warnings.splice(..0, loaded.warnings);
            // What the files say is known only now; it gets its place from the key that names them.
            let text = std::fs::read_to_string(file).unwrap_or_default();
            (placed(errors, &text), placed(warnings, &text))
        }
        Err(errors) => {
            all_seen = false;
            (errors.errors, Vec::new())
        }
    };
    let fine = errors.is_empty() && (warnings.is_empty() || !strict);
    match output {
        Output::Json => {
            let found = json!({ "ok": fine, "errors": errors, "warnings": warnings });
            writeln!(out, "{found:#}")?;
        }
        Output::Table => {
            let mark = if strict { "" } else { "warning: " };
            list(&errors, "", out)?;
            list(&warnings, mark, out)?;
            let name = file.display();
            let (errors, warnings) = (count(&errors, "error"), count(&warnings, "warning"));
            let verdict = if fine { "is correct" } else { "cannot be used" };
            let verdict =
                if strict && errors.starts_with("no ") && !fine { "is odd" } else { verdict };
            let rest = if all_seen { "" } else { "; the files that it names were not looked at" };
            writeln!(out, "{name} {verdict}: {errors}, {warnings}{rest}")?;
        }
    }
    Ok(if fine { Verdict::Fine } else { Verdict::NotFine })
}

/// What only building the routes tells: the regular expressions of one host can be too large together.
fn unroutable(file: &Path, config: &Config) -> Vec<Finding> {
    let Err(error) = RouteMatcher::new(&config.routes) else { return Vec::new() };
    let (file, path) = (file.display().to_string().into(), "routes".to_owned());
    vec![Finding { file, line: 0, column: 0, path, message: error.to_string() }]
}

/// What is odd about other files here and now: an edge may run on another machine.
fn files(file: &Path, config: &Config) -> impl Iterator<Item = Finding> {
    let file: Arc<str> = file.display().to_string().into();
    check_files(config).into_iter().map(move |FileFinding { path, message }| Finding {
        file: file.clone(),
        line: 0,
        column: 0,
        path,
        message,
    })
}

/// What is wrong with the files that a webhook and an authority need.
fn unreachable(file: &Path, config: &Config) -> Vec<Finding> {
    let file: Arc<str> = file.display().to_string().into();
    let found = [("alerts", check_alerts(config)), ("acme", check_acme(config))];
    let finding = |(path, result): (&str, Result<(), String>)| {
        let message = result.err()?;
        Some(Finding { file: file.clone(), line: 0, column: 0, path: path.to_owned(), message })
    };
    found.into_iter().filter_map(finding).collect()
}

/// What is wrong and what is odd about the certificates that a configuration names.
fn certificates(file: &Path, config: &Config) -> (Vec<Finding>, Vec<Finding>) {
    let file: Arc<str> = file.display().to_string().into();
    let finding = |CertificateFinding { path, message }| {
        let file = file.clone();
        Finding { file, line: 0, column: 0, path, message }
    };
    let unix_s = i64::try_from(unix_ms() / 1000).unwrap_or(i64::MAX);
    match load_certificates(config, unix_s) {
        Ok((_, odd)) => (Vec::new(), odd.into_iter().map(finding).collect()),
        Err(errors) => (errors.0.into_iter().map(finding).collect(), Vec::new()),
    }
}

fn list(findings: &[Finding], mark: &str, out: &mut dyn Write) -> anyhow::Result<()> {
    for finding in findings {
        let Finding { file, line, column, path, message } = finding;
        write!(out, "{file}")?;
        if *line > 0 {
            write!(out, ":{line}:{column}")?;
        }
        let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
        writeln!(out, ": {mark}{path}{message}")?;
    }
    Ok(())
}

fn count(findings: &[Finding], what: &str) -> String {
    match findings.len() {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        more => format!("{more} {what}s"),
    }
}

/// Prints a correct file as it is, or with all defaults.
pub(super) fn print(file: &Path, effective: bool, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let loaded = match Config::load(file) {
        Ok(loaded) => loaded,
        Err(errors) => bail!("{errors}"),
    };
    if effective {
        out.write_all(loaded.config.effective_toml().as_bytes())?;
    } else {
        let text = std::fs::read(file).with_context(|| file.display().to_string())?;
        out.write_all(&text)?;
    }
    Ok(Verdict::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
[[listeners]]
name = \"public\"
address = \"127.0.0.1:8080\"
[[regions]]
id = \"here\"
role = \"primary\"
coordinates = [1.0, 2.0]
[[services]]
name = \"api\"
[[services.endpoints]]
region = \"here\"
address = \"127.0.0.1:3000\"
[[routes]]
name = \"api\"
service = \"api\"
";

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("meridian.toml");
        std::fs::write(&file, text).unwrap();
        (directory, file)
    }

    fn checked(text: &str, strict: bool) -> (Verdict, String) {
        let (_directory, file) = file(text);
        let mut out = Vec::new();
        let verdict = check(&file, strict, Output::Table, &mut out).unwrap();
        (verdict, String::from_utf8(out).unwrap())
    }

    #[test]
    fn errors_have_their_place_and_are_counted() {
        let (verdict, said) =
            checked(&GOOD.replace("service = \"api\"", "service = \"apii\""), false);
        assert_eq!(verdict, Verdict::NotFine);
        let lines: Vec<_> = said.lines().collect();
        assert!(lines[0].contains("meridian.toml:16:11:"), "{said}");
        assert!(lines[0].contains(": routes[0].service: "), "{said}");
        assert!(lines.last().unwrap().contains("cannot be used: 1 error, no warnings; "), "{said}");
    }

    #[test]
    fn a_correct_file_is_said_to_be_so() {
        let (verdict, said) = checked(GOOD, true);
        assert_eq!(verdict, Verdict::Fine, "{said}");
        assert!(said.ends_with("is correct: no errors, no warnings\n"), "{said}");
    }

    #[test]
    fn expressions_that_are_too_large_together_are_an_error() {
        let route = |i: u32| {
            format!(
                "[[routes]]\nname = \"r{i}\"\nservice = \"api\"\n\
                 path_regex = '^/{i}/\\w{{40}}$'\n"
            )
        };
        let routes = |count| format!("{GOOD}{}", (0..count).map(route).collect::<String>());
        assert_eq!(checked(&routes(2), false).0, Verdict::Fine);
        let (verdict, said) = checked(&routes(60), false);
        assert_eq!(verdict, Verdict::NotFine);
        assert!(said.contains(": routes: ") && said.contains("size limit"), "{said}");
    }

    #[test]
    fn certificates_are_read_and_verified() {
        let tls = "address = \"127.0.0.1:8080\"\n\
                   tls.certificates = [{ certificate = \"a.pem\", private_key = \"a.key\" }]";
        let text = GOOD.replace("address = \"127.0.0.1:8080\"", tls);
        let (directory, file) = file(&text);
        let checked = |strict| {
            let mut out = Vec::new();
            let verdict = check(&file, strict, Output::Table, &mut out).unwrap();
            (verdict, String::from_utf8(out).unwrap())
        };
        let (verdict, said) = checked(false);
        assert_eq!(verdict, Verdict::NotFine);
        for key in ["certificate", "private_key"] {
            // With the place of the key.
            let path = format!(": listeners[0].tls.certificates[0].{key}: ");
            let line = said.lines().find(|line| line.contains(&path)).unwrap();
            assert!(line.contains("meridian.toml:5:"), "{said}");
        }
        assert!(said.ends_with("cannot be used: 2 errors, no warnings\n"), "{said}");

        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        std::fs::write(directory.path().join("a.pem"), pem).unwrap();
        std::fs::write(directory.path().join("a.key"), key.serialize_pem()).unwrap();
        let (verdict, said) = checked(false);
        assert_eq!(verdict, Verdict::Fine, "{said}");
        assert!(said.contains(".certificate: ") && said.contains("a.pem: has expired"), "{said}");
        assert_eq!(checked(true).0, Verdict::NotFine);
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error_and_json_says_the_same() {
        let mut out = Vec::new();
        let verdict = check(Path::new("/nowhere/m.toml"), false, Output::Json, &mut out).unwrap();
        let said: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((verdict, &said["ok"]), (Verdict::NotFine, &json!(false)));
        assert_eq!(said["errors"][0]["file"], "/nowhere/m.toml");
    }

    #[test]
    fn effective_output_is_a_correct_file_again() {
        let (_directory, first) = file(GOOD);
        let mut out = Vec::new();
        print(&first, true, &mut out).unwrap();
        let (_directory, second) = file(std::str::from_utf8(&out).unwrap());
        let mut again = Vec::new();
        print(&second, true, &mut again).unwrap();
        assert_eq!(out, again);
        let mut plain = Vec::new();
        print(&first, false, &mut plain).unwrap();
        assert_eq!(plain, GOOD.as_bytes());
    }
}
