//! The formats of strings: what each means, and how it is read.

use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;

use super::text::FromText;
use crate::{
    name::{AppId, ByteSize, DurationText, HostPattern, Hostname, NameError, PathPrefix},
    path,
    registry::{Location, LocationError},
    spec::{
        AgentPattern, DatabaseUrl, ListenAddr, MethodName, Template, UpstreamServer, Window,
        nearest_zone,
    },
};

/// One format, by name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    pub(crate) name: &'static str,
    pub(crate) meaning: &'static str,
    pub(crate) is_secret: bool,
    pub(crate) check: fn(&str) -> Result<(), NameError>,
}

impl Format {
    const fn of<T: FromText>() -> Self {
        Self {
            name: T::FORMAT,
            meaning: T::MEANING,
            is_secret: T::IS_SECRET,
            check: |text| T::from_text(text).map(drop),
        }
    }

    /// The format of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        FORMATS.iter().find(|format| format.name == name)
    }
}

/// Every format that the schema names; a test holds it against the schema.
pub(crate) const FORMATS: &[Format] = &[
    Format::of::<AgentPattern>(),
    Format::of::<AppId>(),
    Format::of::<ByteSize>(),
    Format::of::<DatabaseUrl>(),
    Format::of::<Duration>(),
    Format::of::<EnvName>(),
    Format::of::<FilePath>(),
    Format::of::<HostPattern>(),
    Format::of::<IpNet>(),
    Format::of::<IncludePattern>(),
    Format::of::<LineText>(),
    Format::of::<VersionText>(),
    Format::of::<ListenAddr>(),
    Format::of::<Location>(),
    Format::of::<LogLevel>(),
    Format::of::<MethodName>(),
    Format::of::<OrNever>(),
    Format::of::<OrUnlimited>(),
    Format::of::<PathPrefix>(),
    Format::of::<Positive>(),
    Format::of::<ProbeHost>(),
    Format::of::<ProbePath>(),
    Format::of::<Template>(),
    Format::of::<UpstreamServer>(),
    Format::of::<UserName>(),
    Format::of::<Window>(),
];

/// A duration that is not zero.
#[derive(Clone, Copy, Debug)]
pub struct Positive(pub Duration);

/// A duration that is not zero, or none.
#[derive(Clone, Copy, Debug)]
pub struct OrNever(pub Option<Duration>);

/// A size, or none.
#[derive(Clone, Copy, Debug)]
pub struct OrUnlimited(pub Option<ByteSize>);

/// Text without control characters.
#[derive(Clone, Debug)]
pub struct LineText(pub String);

/// A version of a program.
#[derive(Clone, Debug)]
pub struct VersionText(pub String);

/// A file or folder; relative to the folder of the config file it stands in.
#[derive(Clone, Debug)]
pub struct FilePath(pub PathBuf);

/// Files to include.
#[derive(Clone, Debug)]
pub struct IncludePattern(pub String);

/// A user or a group, by name or number.
#[derive(Clone, Debug)]
pub struct UserName(pub String);

/// The name of an environment variable.
#[derive(Clone, Debug)]
pub struct EnvName(pub String);

/// A filter for the own log.
#[derive(Clone, Debug)]
pub struct LogLevel(pub String);

/// A path, perhaps with a query, that a probe asks for.
#[derive(Clone, Debug)]
pub struct ProbePath(pub String);

/// The `Host` that a probe sends.
#[derive(Clone, Debug)]
pub struct ProbeHost(pub String);

fn wrong<T>(text: &str) -> Result<T, NameError> {
    Err(NameError(text.into()))
}

impl FromText for Duration {
    const FORMAT: &'static str = "duration";
    const MEANING: &'static str =
        "a duration such as `250ms`, `30s`, `1m30s`, `12h`, `1d`; `0s` too";
    fn from_text(text: &str) -> Result<Self, NameError> {
        DurationText::parse(text).map(|duration| duration.0)
    }
    fn to_text(&self) -> String {
        DurationText(*self).to_string()
    }
}

impl FromText for Positive {
    const FORMAT: &'static str = "positive-duration";
    const MEANING: &'static str = "a duration such as `250ms`, `30s`, `1m30s`, `12h`, `1d`";
    fn from_text(text: &str) -> Result<Self, NameError> {
        match DurationText::parse(text)?.0 {
            Duration::ZERO => {
                wrong("a time of zero leaves no time: write a longer one, such as `30s`")
            }
            duration => Ok(Self(duration)),
        }
    }
    fn to_text(&self) -> String {
        DurationText(self.0).to_string()
    }
}

impl FromText for OrNever {
    const FORMAT: &'static str = "duration-or-never";
    const MEANING: &'static str = "a duration such as `30s`, or `never`";
    fn from_text(text: &str) -> Result<Self, NameError> {
        if text == "never" {
            return Ok(Self(None));
        }
        match DurationText::parse(text) {
            Ok(DurationText(Duration::ZERO)) => {
                wrong("a time of zero leaves no time: write a longer one, or \"never\"")
            }
            Ok(DurationText(duration)) => Ok(Self(Some(duration))),
            Err(error) => wrong(&format!("{error}, or \"never\"")),
        }
    }
    fn to_text(&self) -> String {
        self.0.map_or_else(|| "never".into(), |duration| DurationText(duration).to_string())
    }
}

impl FromText for ByteSize {
    const FORMAT: &'static str = "size";
    const MEANING: &'static str = "a size such as `512B`, `32KiB`, `10MiB`, `2GiB`";
    fn from_text(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl FromText for OrUnlimited {
    const FORMAT: &'static str = "size-or-unlimited";
    const MEANING: &'static str = "a size such as `10MiB`, or `unlimited`";
    fn from_text(text: &str) -> Result<Self, NameError> {
        if text == "unlimited" {
            return Ok(Self(None));
        }
        match ByteSize::parse(text) {
            Ok(size) => Ok(Self(Some(size))),
            Err(error) => wrong(&format!("{error}, or \"unlimited\"")),
        }
    }
    fn to_text(&self) -> String {
        self.0.map_or_else(|| "unlimited".into(), |size| size.to_string())
    }
}

impl FromText for LineText {
    const FORMAT: &'static str = "line";
    const MEANING: &'static str = "text in one line";
    fn from_text(text: &str) -> Result<Self, NameError> {
        if text.chars().any(char::is_control) {
            return wrong("control characters: write text in one line");
        }
        if text.trim().is_empty() {
            return wrong("empty text: write something, or leave the key out");
        }
        Ok(Self(text.into()))
    }
    fn to_text(&self) -> String {
        self.0.clone()
    }
}

impl FromText for VersionText {
    const FORMAT: &'static str = "version";
    const MEANING: &'static str = "any text in one line, 100 bytes at most, such as `2.1.0`";
    fn from_text(text: &str) -> Result<Self, NameError> {
        let LineText(text) = LineText::from_text(text)?;
        if text.len() > 100 {
            return wrong("too long for a version: write 100 bytes at most");
        }
        Ok(Self(text))
    }
    fn to_text(&self) -> String {
        self.0.clone()
    }
}

impl FromText for UserName {
    const FORMAT: &'static str = "user-name";
    const MEANING: &'static str = "a name such as `www-data`, or a number";
    fn from_text(text: &str) -> Result<Self, NameError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.$".contains(c);
        if text.is_empty()
            || text.len() > 64
            || !text.chars().all(is_plain)
            || text.starts_with('-')
        {
            return wrong("no name of a user or group: write one such as `www-data`");
        }
        Ok(Self(text.into()))
    }
    fn to_text(&self) -> String {
        self.0.clone()
    }
}

impl FromText for Location {
    const FORMAT: &'static str = "registry";
    const MEANING: &'static str =
        "`postgres://user:password@host/database`, or `sqlite:/path/to/file`";
    // There may be a password in it.
    const IS_SECRET: bool = true;
    fn from_text(text: &str) -> Result<Self, NameError> {
        text.parse().map_err(|error: LocationError| NameError(error.to_string()))
    }
    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl FromText for DatabaseUrl {
    const FORMAT: &'static str = "database";
    const MEANING: &'static str = "`postgres://user:password@host/database`, `mysql://…`, `mariadb://…`, or \
                                   `sqlite:/path`; `%XX` for what has a meaning in an address";
    const IS_SECRET: bool = true;
    fn from_text(text: &str) -> Result<Self, NameError> {
        text.parse()
    }
    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl FromText for FilePath {
    const FORMAT: &'static str = "file";
    const MEANING: &'static str = "a file or folder, relative to the folder of the config file";
    fn from_text(text: &str) -> Result<Self, NameError> {
        LineText::from_text(text).map(|line| Self(line.0.into()))
    }
    fn to_text(&self) -> String {
        self.0.display().to_string()
    }
}

impl FromText for IncludePattern {
    const FORMAT: &'static str = "file-pattern";
    const MEANING: &'static str = "a file, or a pattern of files such as `apps/*.toml`";
    fn from_text(text: &str) -> Result<Self, NameError> {
        LineText::from_text(text)?;
        // It would walk whole trees, and a watcher could not follow.
        if text.contains("**") {
            return wrong("`**` would look into any folder: name the folders, as in `*/app.toml`");
        }
        match glob::Pattern::new(text) {
            Ok(_) => Ok(Self(text.into())),
            Err(error) => wrong(&format!("not a file pattern: {}", error.msg)),
        }
    }
    fn to_text(&self) -> String {
        self.0.clone()
    }
}

impl FromText for EnvName {
    const FORMAT: &'static str = "env-name";
    const MEANING: &'static str = "the name of an environment variable";
    fn from_text(text: &str) -> Result<Self, NameError> {
        if matches!(text, "LISTEN_FDS" | "LISTEN_PID" | "LISTEN_FDNAMES" | "NOTIFY_SOCKET") {
            return wrong("this variable is Doorbell's to set: choose `ready` instead");
        }
        if text.is_empty() || text.chars().any(|c| c == '=' || c.is_control() || c.is_whitespace())
        {
            return wrong("not the name of an environment variable: use letters, digits and `_`");
        }
        Ok(Self(text.into()))
    }
    fn to_text(&self) -> String {
        self.0.clone()
    }
}

impl FromText for LogLevel {
    const FORMAT: &'static str = "log-level";
    const MEANING: &'static str =
        "`error`, `warn`, `info`, `debug` or `trace`, also by part: `info,doorbell_proxy=debug`";
    fn from_text(text: &str) -> Result<Self, NameError> {
        let known = |directive: &str| {
            let (part, level) = directive.split_once('=').unwrap_or(("all", directive));
            let named = part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':');
            named
                && !part.is_empty()
                && matches!(level, "off" | "error" | "warn" | "info" | "debug" | "trace")
        };
        if text.split(',').all(known) {
            return Ok(Self(text.into()));
        }
        wrong("not a log level: write error, warn, info, debug or trace, or `info,part=debug`")
    }
    fn to_text(&self) -> String {
        self.0.clone()
    }
}

impl FromText for ProbePath {
    const FORMAT: &'static str = "request-path";
    const MEANING: &'static str = "the path of a request, perhaps with a query: `/healthz?full=1`";
    fn from_text(text: &str) -> Result<Self, NameError> {
        match path::normalize_target(text) {
            Ok(target) if target.as_str().is_ascii() => Ok(Self(target.as_str().into())),
            Ok(_) => wrong("a query is ASCII: write other characters as %XX"),
            Err(bad) => wrong(&format!("not the path of a request: {bad}")),
        }
    }
    fn to_text(&self) -> String {
        self.0.clone()
    }
}

impl FromText for ProbeHost {
    const FORMAT: &'static str = "host-header";
    const MEANING: &'static str = "a host, perhaps with a port";
    fn from_text(text: &str) -> Result<Self, NameError> {
        Hostname::parse(text)?;
        Ok(Self(text.to_ascii_lowercase()))
    }
    fn to_text(&self) -> String {
        self.0.clone()
    }
}

impl FromText for AppId {
    const FORMAT: &'static str = "app-id";
    const MEANING: &'static str = "an app's id: 1 to 63 of a-z, 0-9, `-` and `_`";
    fn from_text(text: &str) -> Result<Self, NameError> {
        Self::parse(text).or_else(|_| {
            wrong(
                "not an app id: use 1 to 63 of a-z, 0-9, `-` and `_`, beginning with a letter or \
                 digit",
            )
        })
    }
    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl FromText for HostPattern {
    const FORMAT: &'static str = "host";
    const MEANING: &'static str =
        "`blog.example.com`, `*.example.com` (every name below it) or `*`";
    fn from_text(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl FromText for PathPrefix {
    const FORMAT: &'static str = "path";
    const MEANING: &'static str = "a path such as `/blog`; it stands for all below it too";
    fn from_text(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl FromText for Template {
    const FORMAT: &'static str = "template";
    const MEANING: &'static str = "text in which placeholders such as `{port}` and `{id}` are filled \
                                   in; `{{` and `}}` are braces";
    fn from_text(text: &str) -> Result<Self, NameError> {
        if text.contains('\0') {
            return wrong("a NUL character cannot be passed to a program");
        }
        Self::parse(text)
    }
    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl FromText for Window {
    const FORMAT: &'static str = "hours";
    const MEANING: &'static str = "hours such as `Mon-Fri 08:00-18:00 Europe/Berlin`, `Sat,Sun \
                                   22:00-02:00 UTC` or, in the server's own zone, `daily 07:00-24:00`";
    fn from_text(text: &str) -> Result<Self, NameError> {
        let window = Self::parse(text)?;
        if window.has_known_zone() {
            return Ok(window);
        }
        match window.zone().and_then(nearest_zone) {
            Some(zone) => wrong(&format!("there is no such time zone: did you mean `{zone}`?")),
            None => wrong(
                "there is no such time zone: write one such as `Europe/Berlin` or `UTC`, or leave \
                 it out for the server's own",
            ),
        }
    }
    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl FromText for IpNet {
    const FORMAT: &'static str = "network";
    const MEANING: &'static str = "an address or network: `10.0.0.1`, `10.0.0.0/8`, `fd00::/8`";
    fn from_text(text: &str) -> Result<Self, NameError> {
        if let Ok(address) = text.parse::<std::net::IpAddr>() {
            return Ok(address.into());
        }
        match text.parse::<Self>() {
            Ok(network) => Ok(network.trunc()),
            Err(_) => wrong("not an address or network: write `10.0.0.1` or `10.0.0.0/8`"),
        }
    }
    fn to_text(&self) -> String {
        self.to_string()
    }
}
