//! What commands print: a table for people, one JSON object a line for machines.

use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Prints one JSON object on one line of stdout.
pub fn json_line(value: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    print_bytes(&line)
}

/// Prints a line of text on stdout.
pub fn line(text: &str) -> anyhow::Result<()> {
    print_bytes(format!("{text}\n").as_bytes())
}

/// The same for who goes on for ever; false when the reader has seen enough.
pub fn still_read(text: &str) -> anyhow::Result<bool> {
    written(format!("{text}\n").as_bytes())
}

fn print_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    written(bytes).map(drop)
}

fn written(bytes: &[u8]) -> anyhow::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        // A reader that has seen enough (`| head`) is not an error.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

/// A table as wide as the terminal, without lines that get in the way of `grep`.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().map(|h| h.to_uppercase()));
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| plain(cell)));
    }
    line(&table.trim_fmt())
}

/// Text from outside, with control characters escaped: an id may not move somebody's cursor.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// Whether progress may be drawn: stderr is a terminal.
pub fn draws_progress() -> bool {
    io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(plain("a\u{1b}[2Jb\0é"), "a\\u{1b}[2Jb\\u{0}é");
    }
}
