//! What is wrong or odd in a configuration file, and where.
//!
//! Promises: everything that is wrong is reported at once, in file order, with line, column and path. Refuses
//! to know: what the keys mean.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// One thing that is wrong (an error) or odd (a warning).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The configuration file's path as it was given.
    pub file: Arc<str>,
    /// From 1; 0 when the file as a whole is meant.
    pub line: usize,
    /// From 1, counted in characters; 0 when the file as a whole is meant.
    pub column: usize,
    /// Which key, such as `routes[3].service`, counted from 0; empty where no key is to blame.
    pub path: String,
    /// What is wrong, and what may have been meant.
    pub message: String,
}

/// Something odd that does not keep a configuration from being used; `check --strict` refuses it.
pub type Warning = Finding;

impl fmt::Display for Finding {
    /// `FILE:LINE:COLUMN: path: message`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// All errors of a configuration file, in file order; never empty.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ConfigErrors {
    /// At least one.
    pub errors: Vec<Finding>,
}

impl ConfigErrors {
    /// The one error of a file that cannot be read at all.
    pub(crate) fn of_file(file: &Path, message: String) -> Self {
        let file = file.display().to_string().into();
        Self { errors: vec![Finding { file, line: 0, column: 0, path: String::new(), message }] }
    }
}

impl fmt::Display for ConfigErrors {
    /// One error a line, without a line end after the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// A finding whose place is still a byte offset.
#[derive(Debug)]
pub(crate) struct Note {
    /// In the text; its length or more means its end.
    pub(crate) offset: usize,
    /// See [`Finding::path`].
    pub(crate) path: String,
    /// See [`Finding::message`].
    pub(crate) message: String,
}

/// Sorts notes by place and turns offsets into lines and columns.
pub(crate) fn locate(file: &Path, text: &str, mut notes: Vec<Note>) -> Vec<Finding> {
    notes.sort_by_key(|note| note.offset);
    let file: Arc<str> = file.display().to_string().into();
    let (mut line, mut line_start) = (1, 0);
    let mut ends = line_ends(text).peekable();
    let mut findings = Vec::with_capacity(notes.len());
    for Note { offset, path, message } in notes {
        let offset = text.floor_char_boundary(offset);
        while let Some(end) = ends.next_if(|end| *end < offset) {
            line += 1;
            line_start = end + 1;
        }
        let column = text[line_start..offset].chars().count() + 1;
        findings.push(Finding { file: file.clone(), line, column, path, message });
    }
    findings
}

/// Offsets of the line ends.
fn line_ends(text: &str) -> impl Iterator<Item = usize> {
    text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(offset, _)| offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_become_lines_and_columns_in_file_order() {
        let text = "a = 1\nä = \"ö\" # x\n\nlast";
        let note = |offset| Note { offset, path: "p".into(), message: "m".into() };
        let at = |needle| text.find(needle).expect("in the text");
        let notes = vec![note(999), note(at("last")), note(0), note(at("# x")), note(at("\nä"))];
        let places: Vec<_> =
            locate(Path::new("f"), text, notes).iter().map(|f| (f.line, f.column)).collect();
        assert_eq!(places, [(1, 1), (1, 6), (2, 9), (4, 1), (4, 5)]);
    }

    #[test]
    fn an_error_without_a_place_names_the_file_alone() {
        let errors = ConfigErrors::of_file(Path::new("m.toml"), "cannot be read".into());
        assert_eq!(errors.to_string(), "m.toml: cannot be read");
    }
}
