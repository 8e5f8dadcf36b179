//! `.env`: lines `NAME=value`, as foreman and most others read them.
//!
//! `${NAME}` in a value is no more than these characters: who reads such files differs there.

/// What stands in a file.
#[derive(Debug, Default)]
pub(super) struct File {
    /// Variables in their order; the last of a name holds.
    pub(super) variables: Vec<(String, String)>,
    /// The numbers of lines that are none, with the reason.
    pub(super) wrong: Vec<(usize, &'static str)>,
}

/// Reads a file.
pub(super) fn read(text: &str) -> File {
    let mut file = File::default();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, value)) = line.split_once('=') else {
            file.wrong.push((index + 1, "it is no `NAME=value`"));
            continue;
        };
        match self::value(value.trim()) {
            Some(value) => file.variables.push((name.trim().to_owned(), value)),
            None => file.wrong.push((index + 1, "a quote does not end on its line")),
        }
    }
    file
}

fn value(text: &str) -> Option<String> {
    if let Some(rest) = text.strip_prefix('\'') {
        return rest.split_once('\'').map(|(value, _)| value.to_owned());
    }
    if let Some(rest) = text.strip_prefix('"') {
        return double_quoted(rest);
    }
    // A comment has a space before it: colours and links have none.
    let end = text.find(" #").unwrap_or(text.len());
    Some(text[..end].trim_end().to_owned())
}

fn double_quoted(text: &str) -> Option<String> {
    let mut value = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Some(value),
            '\\' => match chars.next()? {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                c @ ('"' | '\\' | '$') => value.push(c),
                c => value.extend(['\\', c]),
            },
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_quotes_and_comments() {
        let text = "# a comment\n\nA=1\nexport B = two words # why\nC='a # $X'\nD=\"a\\nb\\\"\" # c\n\
                    E=\nURL=postgres://u:p@h/d?x=1#frag\nA=2\r\n";
        let File { variables, wrong } = read(text);
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "a # $X"),
            ("D", "a\nb\""),
            ("E", ""),
            ("URL", "postgres://u:p@h/d?x=1#frag"),
            ("A", "2"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(variables, expected);
        assert_eq!(wrong, []);
    }

    #[test]
    fn lines_that_are_none_are_told_by_number() {
        let File { variables, wrong } = read("nothing\nA='open\nB=\"open\\\"\nC=\"open\\");
        assert_eq!(variables, []);
        let numbers: Vec<_> = wrong.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
    }
}
