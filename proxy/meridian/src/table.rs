//! Tables for people: columns as wide as what is in them.
//!
//! Promises: numbers stand to the right, words to the left; no line ends in spaces. Refuses to know:
//! colours, terminals.

/// Where a column's cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// Rows of text under a header.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Side)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A column whose header starts with `>` stands to the right.
    pub(crate) fn new<const N: usize>(headers: [&'static str; N]) -> Self {
        let side = |header: &'static str| match header.strip_prefix('>') {
            Some(header) => (header, Side::Right),
            None => (header, Side::Left),
        };
        Self { columns: headers.map(side).to_vec(), rows: Vec::new() }
    }

    /// Adds a row; cells beyond the columns are not shown, missing ones are empty.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Lines, each with its end.
    pub(crate) fn render(&self) -> String {
        let header: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                let rows = std::iter::once(&header).chain(&self.rows);
                rows.map(|row| cell(row, column).chars().count()).max().unwrap_or(0)
            })
            .collect();
        let mut out = String::new();
        for row in std::iter::once(&header).chain(&self.rows) {
            let cells = self.columns.iter().zip(&widths).enumerate();
            let line: Vec<String> = cells
                .map(|(column, ((_, side), width))| match side {
                    Side::Left => format!("{:<width$}", cell(row, column)),
                    Side::Right => format!("{:>width$}", cell(row, column)),
                })
                .collect();
            out.push_str(line.join("  ").trim_end());
            out.push('\n');
        }
        out
    }
}

/// `-` for what is not known.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Milliseconds as people say them: `0.4 ms`, `85 ms`, `1.2 s`, `3 min`.
pub(crate) fn millis(ms: f64) -> String {
    match ms {
        ..0.05 => "0 ms".to_owned(),
        ..9.95 => format!("{ms:.1} ms"),
        ..999.5 => format!("{ms:.0} ms"),
        ..119_950.0 => format!("{:.1} s", ms / 1_000.0),
        _ => format!("{:.0} min", ms / 60_000.0),
    }
}

/// A part of one, in whole percent.
pub(crate) fn percent(part: f64) -> String {
    format!("{:.0}%", part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["REGION", ">MS", "WHY"]);
        table.row(["eu-west-1".into(), "8".into(), "é".into()]);
        table.row(["us".into(), "120".into(), String::new()]);
        let expected = "REGION      MS  WHY\neu-west-1    8  é\nus         120\n";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn units() {
        let said: Vec<_> = [0.0, 0.44, 85.2, 1_200.0, 90_000.0, 180_000.0].map(millis).into();
        assert_eq!(said, ["0 ms", "0.4 ms", "85 ms", "1.2 s", "90.0 s", "3 min"]);
        assert_eq!((percent(0.256), or_dash::<u8>(None)), ("26%".into(), "-".into()));
    }
}
