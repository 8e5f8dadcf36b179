//! Lines of a command taken apart into words, as far as that goes without a shell.
//!
//! Doorbell runs programs without one. A line that means the same word by word is run so; one that needs a shell
//! (variables, pipes, patterns) is given to `/bin/sh`, as whoever wrote it expects. `$PORT` is what most lines
//! need a shell for, and that has a placeholder: `{port}`.

use doorbell_config::file::literal_template;

/// What runs a line that needs a shell.
pub(super) const SHELL: &str = "/bin/sh";
const PORT: &str = "{port}";

/// Words at a command's place that only a shell knows.
const BUILTIN: &[&str] = &[
    "!", ".", ":", "case", "cd", "eval", "exec", "export", "for", "if", "read", "set", "source",
    "trap", "ulimit", "umask", "unset", "until", "wait", "while", "{",
];

/// A line as Doorbell runs it. Texts are as they stand in a file, with placeholders.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// Variables that stand before the command.
    pub(super) env: Vec<(String, String)>,
    /// The command.
    pub(super) command: Vec<String>,
}

/// What keeps a line from being words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    /// One command, in which a shell has to fill in something.
    Fill,
    /// More than one command, or none that could take the shell's place.
    Compound,
    /// A quote that does not end: no shell takes it either.
    OpenQuote,
}

/// A line as a shell reads it.
///
/// # Errors
/// Why no shell could run it.
pub(super) fn line(text: &str) -> Result<Line, &'static str> {
    let text = text.trim();
    if text.is_empty() {
        return Err("it has no command");
    }
    match Reader::of(text, Dollar::Shell).words() {
        Ok(words) => Ok(simple(words).unwrap_or_else(|| in_shell(text, Obstacle::Compound))),
        Err(Obstacle::OpenQuote) => Err("a quote in its command does not end"),
        Err(obstacle) => Ok(in_shell(text, obstacle)),
    }
}

/// Words that are parted by spaces, with quotes around those that have some; nothing else has a meaning.
///
/// # Errors
/// When a quote does not end.
pub(super) fn split(text: &str) -> Result<Vec<String>, &'static str> {
    let words = Reader::of(text, Dollar::Plain).words();
    let words = words.map_err(|_| "a quote does not end")?;
    Ok(words.into_iter().map(|word| word.text).collect())
}

/// Assignments, then a command that is a program; `None` if it is not.
fn simple(words: Vec<Word>) -> Option<Line> {
    let mut line = Line::default();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next_if(|word| word.assigned.is_some()) {
        let name = word.assigned?;
        let value = word.text.get(name.len() + 1..)?.to_owned();
        line.env.push((name, value));
    }
    // Doorbell starts the program itself: nothing is left to be replaced.
    let _ = words.next_if(|word| word.text == "exec" && !word.is_quoted);
    let first = words.peek()?;
    if !first.is_quoted && BUILTIN.contains(&first.text.as_str())
        || first.text.starts_with('-')
        // The program itself takes no placeholder.
        || first.text.contains(PORT)
        || first.text.is_empty()
    {
        return None;
    }
    line.command = words.map(|word| word.text).collect();
    Some(line)
}

fn in_shell(text: &str, obstacle: Obstacle) -> Line {
    let first = text.split_whitespace().next().unwrap_or_default();
    let is_program = !BUILTIN.contains(&first) && !first.contains(['=', '$', '`', '"', '\'', '\\']);
    // Then the shell makes way for the program, which gets signals itself.
    let exec = if obstacle == Obstacle::Fill && is_program { "exec " } else { "" };
    let script = literal_template(&format!("{exec}{text}"));
    Line { env: Vec::new(), command: vec![SHELL.into(), "-c".into(), script] }
}

/// What `$` and its like mean.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dollar {
    Shell,
    Plain,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Word {
    /// As a template.
    text: String,
    /// What comes as it is, until it is put behind `text`.
    plain: String,
    is_quoted: bool,
    /// The variable, if it is `NAME=value`.
    assigned: Option<String>,
}

impl Word {
    fn settle(&mut self) {
        self.text += &literal_template(&std::mem::take(&mut self.plain));
    }
}

struct Reader<'t> {
    rest: &'t str,
    dollar: Dollar,
    words: Vec<Word>,
    word: Option<Word>,
}

impl<'t> Reader<'t> {
    fn of(text: &'t str, dollar: Dollar) -> Self {
        Self { rest: text, dollar, words: Vec::new(), word: None }
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn word(&mut self) -> &mut Word {
        self.word.get_or_insert_default()
    }

    fn end_word(&mut self) {
        if let Some(mut word) = self.word.take() {
            word.settle();
            self.words.push(word);
        }
    }

    fn words(mut self) -> Result<Vec<Word>, Obstacle> {
        let is_shell = self.dollar == Dollar::Shell;
        while let Some(c) = self.next() {
            let begins = self.word.is_none();
            match c {
                c if c.is_ascii_whitespace() => self.end_word(),
                '\'' => self.single_quoted()?,
                '"' => self.double_quoted()?,
                '\\' => {
                    let escaped = self.next().ok_or(Obstacle::OpenQuote)?;
                    let word = self.word();
                    word.is_quoted = true;
                    word.plain.push(escaped);
                }
                '$' if is_shell => self.variable()?,
                '|' | '&' | ';' | '(' | ')' | '`' if is_shell => return Err(Obstacle::Compound),
                '<' | '>' | '*' | '?' | '[' if is_shell => return Err(Obstacle::Fill),
                '~' | '#' if is_shell && begins => return Err(Obstacle::Fill),
                '=' if is_shell => self.equals(),
                c => self.word().plain.push(c),
            }
        }
        self.end_word();
        Ok(self.words)
    }

    /// `=` behind a name, where only such words are before it, assigns.
    fn equals(&mut self) {
        let is_first = self.words.iter().all(|word| word.assigned.is_some());
        let word = self.word.get_or_insert_default();
        if is_first && word.assigned.is_none() && !word.is_quoted && is_name(&word.plain) {
            word.assigned = Some(word.plain.clone());
        }
        word.plain.push('=');
    }

    fn single_quoted(&mut self) -> Result<(), Obstacle> {
        let (inner, after) = self.rest.split_once('\'').ok_or(Obstacle::OpenQuote)?;
        self.rest = after;
        let word = self.word();
        word.is_quoted = true;
        word.plain += inner;
        Ok(())
    }

    fn double_quoted(&mut self) -> Result<(), Obstacle> {
        self.word().is_quoted = true;
        let is_shell = self.dollar == Dollar::Shell;
        loop {
            let c = self.next().ok_or(Obstacle::OpenQuote)?;
            match c {
                '"' => return Ok(()),
                '\\' => {
                    let escaped = self.next().ok_or(Obstacle::OpenQuote)?;
                    let is_escape = "\"\\".contains(escaped) || is_shell && "$`".contains(escaped);
                    if !is_escape {
                        self.word().plain.push('\\');
                    }
                    self.word().plain.push(escaped);
                }
                '$' if is_shell => self.variable()?,
                '`' if is_shell => return Err(Obstacle::Fill),
                c => self.word().plain.push(c),
            }
        }
    }

    /// Behind a `$`: the port, or what a shell must fill in.
    fn variable(&mut self) -> Result<(), Obstacle> {
        let rest = self.rest;
        let after = if let Some(inner) = rest.strip_prefix("{PORT") {
            // `${PORT}`, `${PORT:-3000}`: there always is one.
            let (instead, after) = inner.split_once('}').ok_or(Obstacle::Fill)?;
            let is_default = instead.is_empty() || instead.starts_with([':', '-']);
            let is_plain = !instead.contains(['$', '`', '"', '\'', '\\']);
            let is_default =
                is_default && is_plain && (!instead.starts_with(':') || instead.starts_with(":-"));
            is_default.then_some(after)
        } else {
            let after = rest.strip_prefix("PORT");
            after
                .filter(|after| !after.starts_with(|c: char| c == '_' || c.is_ascii_alphanumeric()))
        };
        self.rest = after.ok_or(Obstacle::Fill)?;
        let word = self.word();
        // `${port}` would ask for a variable of Doorbell's own environment.
        if word.plain.ends_with('$') {
            return Err(Obstacle::Fill);
        }
        word.settle();
        word.text += PORT;
        Ok(())
    }
}

fn is_name(text: &str) -> bool {
    text.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric())
        && text.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn command(text: &str) -> Vec<String> {
        let line = line(text).unwrap();
        assert_eq!(line.env, [], "{text}");
        line.command
    }

    #[test]
    fn words_are_run_without_a_shell() {
        for (text, words) in [
            ("node server.js", &["node", "server.js"][..]),
            ("  a  'b c' \"d \\\"e\\\" \\x\" f\\ g ''", &["a", "b c", "d \"e\" \\x", "f g", ""]),
            ("gunicorn app:app -b 0.0.0.0:$PORT", &["gunicorn", "app:app", "-b", "0.0.0.0:{port}"]),
            ("x -p ${PORT} \"$PORT\" ${PORT:-80}", &["x", "-p", "{port}", "{port}", "{port}"]),
            ("exec puma -C a=b {x}", &["puma", "-C", "a=b", "{{x}}"]),
            ("x '$HOME' '${A}'", &["x", "$HOME", "$${A}"]),
            ("./run a#b c~", &["./run", "a#b", "c~"]),
        ] {
            assert_eq!(command(text), words, "{text}");
        }
    }

    #[test]
    fn what_needs_a_shell_gets_one() {
        for (text, script) in [
            ("x $HOME", "exec x $HOME"),
            ("x $PORTS", "exec x $PORTS"),
            ("x ${A} ${PORT:=1}", "exec x $${A} $${PORT:=1}"),
            ("x *.js", "exec x *.js"),
            ("x > log", "exec x > log"),
            ("a | b", "a | b"),
            ("cd x && node y", "cd x && node y"),
            ("cd x", "cd x"),
            ("A=$B x", "A=$B x"),
            ("$X", "$X"),
            ("./$PORT a", "exec ./$PORT a"),
            ("x \\$$PORT", "exec x \\$$PORT"),
            ("A=1", "A=1"),
            ("x {a} $B", "exec x {{a}} $B"),
        ] {
            let command = command(text);
            assert_eq!(command[..2], [SHELL, "-c"], "{text}");
            if text == "./$PORT a" {
                assert!(command[2].ends_with(text), "{command:?}");
                continue;
            }
            assert_eq!(command[2], script, "{text}");
        }
    }

    /// The words as a shell sees them.
    fn by_shell(text: &str) -> Vec<String> {
        let script = format!("printf '%s\\001' {text}");
        let shell =
            std::process::Command::new(SHELL).args(["-c", &script]).env("PORT", "5").output();
        let printed = String::from_utf8(shell.unwrap().stdout).unwrap();
        printed.split_terminator('\u{1}').map(str::to_owned).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn what_is_run_without_a_shell_means_the_same_in_one(text in "[ab '\"\\\\$PORT#~=*!-]{0,10}") {
            let text = format!("x {text}");
            if let Ok(Line { command, .. }) = line(&text) && command[0] == "x" {
                let words: Vec<_> = command.iter().map(|word| word.replace(PORT, "5")).collect();
                prop_assert_eq!(words, by_shell(&text));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}|[a'\"\\\\${}PORT:= -]{0,20}") {
            let _ = (line(&text), split(&text));
        }
    }

    #[test]
    fn variables_before_a_command_are_its_environment() {
        let line = line("A=1 B='x y' C=:$PORT node a=b").unwrap();
        let expected = [("A", "1"), ("B", "x y"), ("C", ":{port}")];
        assert_eq!(line.env, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(line.command, ["node", "a=b"]);
    }

    #[test]
    fn open_quotes_and_nothing_are_told() {
        for wrong in ["", "  ", "a 'b", "a \"b", "a \\", "a \"\\"] {
            assert!(line(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn without_a_shell_only_quotes_have_a_meaning() {
        assert_eq!(
            split("a '$B c' \"d e\" $PORT | *").unwrap(),
            ["a", "$B c", "d e", "$PORT", "|", "*"]
        );
        assert!(split("'a").is_err());
    }
}
