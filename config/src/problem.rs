//! What is wrong with a config, said so that its author can mend it: file, line, caret, and what to
//! write instead.

use std::{fmt, path::PathBuf};

/// One thing that is wrong, or odd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether it keeps the config from being used.
    pub severity: Severity,
    /// The file it is in.
    pub file: PathBuf,
    /// Line, from 1; 0 when it concerns the file as a whole.
    pub line: usize,
    /// Column in characters, from 1; 0 when it concerns the file as a whole.
    pub column: usize,
    /// Characters to underline.
    pub length: usize,
    /// The line as written, shortened around the place. Values of `env` are blotted out.
    pub excerpt: String,
    /// Where in `excerpt` the underlining begins, in characters.
    pub caret: usize,
    /// What is wrong. Never tells the value of an environment variable.
    pub message: String,
    /// A place that has to do with it, such as an earlier claim.
    pub note: Option<String>,
    /// What to write instead.
    pub help: Option<String>,
}

/// Whether a problem keeps the config from being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The config cannot be used.
    Error,
    /// It can, but may not do what was meant.
    Warning,
}

/// Whether text is coloured for a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// With ANSI escapes.
    Always,
    /// Plain text.
    Never,
}

/// Everything that is wrong with a config, in the order of the files. Never empty as an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.render(Colour::Never).trim_end())]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Each problem with its excerpt, an empty line between them, like a compiler's.
    #[must_use]
    pub fn render(&self, colour: Colour) -> String {
        let texts: Vec<_> = self.0.iter().map(|problem| problem.render(colour)).collect();
        texts.join("\n")
    }
}

impl Problem {
    /// A problem of a file as a whole.
    pub(crate) fn of_file(severity: Severity, file: PathBuf, message: String) -> Self {
        Self {
            severity,
            file,
            line: 0,
            column: 0,
            length: 0,
            excerpt: String::new(),
            caret: 0,
            message,
            note: None,
            help: None,
        }
    }

    /// The problem with its excerpt. Ends with a line break.
    #[must_use]
    pub fn render(&self, colour: Colour) -> String {
        let paint = Paint(colour);
        let (label, code) = match self.severity {
            Severity::Error => ("error", "1;31"),
            Severity::Warning => ("warning", "1;33"),
        };
        let message = paint.with("1", &format!(": {}", self.message));
        let mut out = format!("{}{message}\n", paint.with(code, label));
        let width = if self.line == 0 { 1 } else { self.line.to_string().len() };
        let margin = " ".repeat(width);
        let place = match self.line {
            0 => String::new(),
            line => format!(":{line}:{}", self.column),
        };
        let file = self.file.display();
        out += &format!("{margin}{} {file}{place}\n", paint.with("1;34", "-->"));
        if self.line > 0 {
            let bar = paint.with("1;34", "|");
            let number = paint.with("1;34", &format!("{} |", self.line));
            let indent = " ".repeat(self.caret);
            let carets = paint.with(code, &"^".repeat(self.length.max(1)));
            out += &format!("{margin} {bar}\n{number} {}\n", self.excerpt);
            out += &format!("{margin} {bar} {indent}{carets}\n");
        }
        let remarks = [("note", &self.note), ("help", &self.help)];
        for (label, text) in
            remarks.iter().filter_map(|(label, text)| Some((label, text.as_ref()?)))
        {
            out += &format!("{margin} {} {text}\n", paint.with("1;34", &format!("= {label}:")));
        }
        out
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(Colour::Never).trim_end())
    }
}

/// Puts ANSI escapes around text, or leaves it.
struct Paint(Colour);

impl Paint {
    fn with(&self, code: &str, text: &str) -> String {
        match self.0 {
            Colour::Always => format!("\x1b[{code}m{text}\x1b[0m"),
            Colour::Never => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Problem {
        Problem {
            line: 12,
            column: 3,
            length: 6,
            excerpt: "  comand = []".into(),
            caret: 2,
            note: Some("seen in a.toml:3:1".into()),
            help: Some("did you mean `command`?".into()),
            ..Problem::of_file(Severity::Error, "a.toml".into(), "unknown key `comand`".into())
        }
    }

    #[test]
    fn a_problem_points_at_its_place() {
        let expected = "\
error: unknown key `comand`
  --> a.toml:12:3
   |
12 |   comand = []
   |   ^^^^^^
   = note: seen in a.toml:3:1
   = help: did you mean `command`?
";
        assert_eq!(problem().render(Colour::Never), expected);
    }

    #[test]
    fn colour_adds_escapes_and_nothing_else() {
        let coloured = problem().render(Colour::Always);
        let mut plain = String::new();
        let mut in_escape = false;
        for character in coloured.chars() {
            match character {
                '\x1b' => in_escape = true,
                'm' if in_escape => in_escape = false,
                _ if !in_escape => plain.push(character),
                _ => {}
            }
        }
        assert!(coloured.contains("\x1b[1;31merror"));
        assert_eq!(plain, problem().render(Colour::Never));
    }

    #[test]
    fn a_problem_of_a_whole_file_has_no_excerpt() {
        let problem = Problem::of_file(Severity::Warning, "a.toml".into(), "odd".into());
        assert_eq!(problem.to_string(), "warning: odd\n --> a.toml");
    }
}
