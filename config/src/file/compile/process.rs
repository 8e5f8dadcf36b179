//! An app that Doorbell starts.

use std::{collections::BTreeMap, ops::Range, path::PathBuf, time::Duration};

use super::{Section, database};
use crate::{
    file::{
        format::{FilePath, ProbePath},
        keys::{
            AppKeys, AppLimitKeys, BackOffKeys, OutputKeys, ReadyChoice, ReadyKeys, ReadyWord,
            StartChoice, StopKeys,
        },
        text::{At, Text},
    },
    name::{AppId, ByteSize},
    spec::{
        AwakeSpec, BackOffSpec, DatabasePart, EnclosureSpec, EndpointSpec, GivenSpec, HttpProbe,
        MilliCores, OutputSpec, Placeholder, Probe, ProcessSpec, ReadySpec, ResourceSpec, StopSpec,
        Template, TemplatePart, UpgradeSpec, UserSpec, Window,
    },
};

type Command = At<Vec<At<Text<Template>>>>;

pub(super) fn compile(
    section: &mut Section<'_>,
    keys: &AppKeys,
    command: &Command,
) -> Option<ProcessSpec> {
    let is_runnable = program(section, &command.value, &command.span);
    let mut spec = ProcessSpec::bare(
        command.value.iter().map(|argument| argument.value.0.clone()).collect(),
        match &keys.directory {
            Some(directory) => section.resolve(&directory.value.0),
            None => section.source.folder().to_owned(),
        },
    );
    spec.start = keys.start.as_ref().map_or(StartChoice::OnDemand, |start| start.value).into();
    spec.env = env(keys).into();
    spec.ready = ready(section, keys.ready.as_ref()).into();
    spec.no_new_privs = keys.no_new_privs.as_ref().is_some_and(|at| at.value);
    spec.endpoint = endpoint(section, keys, command, &spec.ready.probe);
    spec.instances = instances(section, keys);
    spec.needs = needs(keys).into();
    spec.awake = awake(section, keys).map(Into::into);
    idle(section, keys, &mut spec);
    if let Some(keys) = &keys.stop {
        spec.stop = stopping(&keys.value).into();
    }
    if let Some(keys) = &keys.back_off {
        spec.back_off = back_off(section, &keys.value).into();
    }
    if let Some(keys) = &keys.logs {
        spec.logs = logs(section, &keys.value).into();
    }
    spec.enclosure = enclosure(section, keys).into();
    spec.resources = resources(section, &keys.limits).into();
    spec.user = user(section, keys).map(Into::into);
    spec.database = keys.database.as_ref().and_then(|keys| database::compile(section, keys));
    spec.given = given(section, keys, command).map(Into::into);
    spec.version = version(section, keys, command);
    spec.upgrade = upgrade(section, keys).map(Into::into);
    spec.set_port_by_convention();
    is_runnable.then_some(spec)
}

/// Whether there is a program to run.
fn program(section: &mut Section<'_>, command: &[At<Text<Template>>], span: &Range<usize>) -> bool {
    let example = "write the program and its arguments: `[\"node\", \"server.js\"]`";
    let Some(program) = command.first() else {
        if !section.is_broken() {
            section.wrong(span, "the command is empty", example);
        }
        return false;
    };
    match program.value.0.0.as_slice() {
        [TemplatePart::Text(text)] if !text.trim().is_empty() => true,
        [] | [TemplatePart::Text(_)] => {
            section.wrong(&program.span, "the program's name is empty", example);
            false
        }
        _ => {
            let help = "placeholders are for arguments and `env`";
            section.wrong(&program.span, "the program itself takes no placeholder", help);
            false
        }
    }
}

fn env(keys: &AppKeys) -> BTreeMap<String, Template> {
    let written = keys.env.iter().flat_map(|env| &env.value);
    let mut env: BTreeMap<_, _> =
        written.map(|(name, value)| (name.clone(), value.value.0.clone())).collect();
    if keys.database.is_some() {
        // By convention, as `PORT` is.
        let url = TemplatePart::Placeholder(Placeholder::Database(DatabasePart::Url));
        env.entry("DATABASE_URL".into()).or_insert_with(|| Template(vec![url]));
    }
    env
}

/// What nobody else may see. Everybody sees a command line (ps(1)).
fn given(section: &mut Section<'_>, keys: &AppKeys, command: &Command) -> Option<GivenSpec> {
    let asks = |text: &&At<Text<Template>>| text.value.0.asks_for(Placeholder::Secret);
    let shows = |text: &&At<Text<Template>>| {
        let hidden = [DatabasePart::Url, DatabasePart::Password].map(Placeholder::Database);
        asks(text) || hidden.iter().any(|part| text.value.0.asks_for(*part))
    };
    let of_upgrade = || keys.upgrade.iter().flat_map(|at| at.value.command());
    if let Some(argument) = command.value.iter().chain(of_upgrade()).find(shows) {
        let help = "write it into `env`: `env = { APP_KEY = \"{secret}\" }`";
        section.wrong(&argument.span, "everybody on the machine can read a command line", help);
    }
    let env = || keys.env.iter().flat_map(|env| &env.value);
    if let Some(text) = env().map(|(_, text)| text).find(asks).filter(|_| keys.secret.is_none()) {
        let help = "add `secret = \"auto\"`";
        section.wrong(&text.span, "there is no secret to fill in", help);
    }
    let texts = || command.value.iter().chain(of_upgrade()).chain(env().map(|(_, text)| text));
    let of_database = texts().find(|text| text.value.0.asks_for_database());
    if let Some(text) = of_database.filter(|_| keys.database.is_none()) {
        let help = "add `database = { new_database = \"postgres://...\" }`";
        section.wrong(&text.span, "the app has no database", help);
    }
    let mut secrets: Vec<String> = Vec::new();
    for name in keys.secrets.iter().flat_map(|names| &names.value) {
        let text = &name.value.0.0;
        if let Some((_, value)) = env().find(|(other, _)| *other == text) {
            let pair = [("secrets", &name.span), ("env", &value.span)];
            section.exclude(pair, "a variable has one value: remove it from one of the two");
        } else if secrets.contains(text) {
            section.wrong(&name.span, "it stands here twice", "remove one of them");
        } else {
            secrets.push(text.clone());
        }
    }
    let (secret, database) = (keys.secret.is_some(), keys.database.is_some());
    let given = GivenSpec { secret, secrets, database };
    (given != GivenSpec::default()).then_some(given)
}

/// Which version it is; whoever asks for it has to be told.
fn version(section: &mut Section<'_>, keys: &AppKeys, command: &Command) -> Option<Box<str>> {
    if keys.version.is_none() {
        let help = "add `version = \"1\"`";
        if let Some(span) = asking(keys, command, Placeholder::Version) {
            section.wrong(span, "there is no version to fill in", help);
        }
        if let Some(upgrade) = keys.upgrade.as_ref().filter(|_| !section.is_broken()) {
            let message = "`upgrade` is run when the version changes, and there is none";
            section.wrong(&upgrade.span, message, help);
        }
    }
    keys.version.as_ref().map(|version| version.value.0.0.as_str().into())
}

fn upgrade(section: &mut Section<'_>, keys: &AppKeys) -> Option<UpgradeSpec> {
    let At { value, span } = keys.upgrade.as_ref()?;
    let is_runnable = program(section, value.command(), span);
    let command = value.command().iter().map(|text| text.value.0.clone()).collect();
    is_runnable.then_some(UpgradeSpec { command, deadline: value.deadline() })
}

/// The first text of command and environment that asks for this.
fn asking<'k>(
    keys: &'k AppKeys,
    command: &'k Command,
    what: Placeholder,
) -> Option<&'k Range<usize>> {
    let env = keys.env.iter().flat_map(|env| env.value.values());
    let upgrade = keys.upgrade.iter().flat_map(|upgrade| upgrade.value.command());
    let mut texts: Vec<_> = command.value.iter().chain(upgrade).chain(env).collect();
    texts.sort_by_key(|text| text.span.start);
    texts.into_iter().find(|text| text.value.0.asks_for(what)).map(|text| &text.span)
}

fn endpoint(
    section: &mut Section<'_>,
    keys: &AppKeys,
    command: &Command,
    probe: &Probe,
) -> EndpointSpec {
    let socket = asking(keys, command, Placeholder::Socket);
    let port = asking(keys, command, Placeholder::Port);
    if let (Some(socket), Some(port)) = (socket, port) {
        section.exclude(
            [("{socket}", socket), ("{port}", port)],
            "an app listens on a socket or on a port: keep one of the two",
        );
    } else if let (Some(socket), Some(port)) = (socket, &keys.port) {
        section.exclude(
            [("{socket}", socket), ("port", &port.span)],
            "an app listens on a socket or on a port: remove `port`, or write `{port}`",
        );
    }
    if let (Probe::SocketActivation, Some(port), Some(ready)) = (probe, &keys.port, &keys.ready) {
        section.exclude(
            [("socket_activation", &ready.span), ("port", &port.span)],
            "remove `port`: Doorbell chooses the address that the program inherits",
        );
    }
    match (socket, &keys.port) {
        (Some(_), _) => EndpointSpec::Socket,
        (None, Some(port)) => EndpointSpec::FixedPort(port.value),
        (None, None) => EndpointSpec::AnyPort,
    }
}

fn ready(section: &mut Section<'_>, choice: Option<&At<ReadyChoice>>) -> ReadySpec {
    let keys = match choice.map(|choice| &choice.value) {
        None => return ReadySpec::default(),
        Some(ReadyChoice::Word(word)) => {
            let probe = match word {
                ReadyWord::Connect => Probe::Connect,
                ReadyWord::Notify => Probe::Notify,
                ReadyWord::SocketActivation => Probe::SocketActivation,
            };
            return ReadySpec { probe, ..ReadySpec::default() };
        }
        Some(ReadyChoice::Table(keys)) => keys,
    };
    one_probe_only(section, keys);
    let probe = match &keys.http {
        Some(path) => Probe::Http(http_probe(keys, path)),
        None if keys.notify.value => Probe::Notify,
        None if keys.socket_activation.value => Probe::SocketActivation,
        None => Probe::Connect,
    };
    ReadySpec { probe, listen: keys.listen.into(), deadline: keys.deadline.0.0 }
}

/// What is asked over HTTP.
pub(super) fn http_probe(keys: &ReadyKeys, path: &At<Text<ProbePath>>) -> HttpProbe {
    HttpProbe {
        path: path.value.0.0.clone(),
        status: keys.status.as_ref().map(|status| status.value),
        body: keys.body.as_ref().map(|body| body.value.0.0.clone()),
        host: keys.host.as_ref().map(|host| host.value.0.0.clone()),
    }
}

fn one_probe_only(section: &mut Section<'_>, keys: &ReadyKeys) {
    let http = keys.http.as_ref().map(|at| ("http", &at.span));
    let notify = keys.notify.value.then_some(("notify", &keys.notify.span));
    let inherit =
        keys.socket_activation.value.then_some(("socket_activation", &keys.socket_activation.span));
    for pair in [(http, notify), (http, inherit), (notify, inherit)] {
        if let (Some(first), Some(second)) = pair {
            section.exclude([first, second], "an app is ready in one way: keep one of the two");
        }
    }
    if http.is_some() || section.is_broken() {
        return;
    }
    let details = [
        ("status", keys.status.as_ref().map(|at| &at.span)),
        ("body", keys.body.as_ref().map(|at| &at.span)),
        ("host", keys.host.as_ref().map(|at| &at.span)),
    ];
    for (key, span) in details.into_iter().filter_map(|(key, span)| Some((key, span?))) {
        let help = "add `http = \"/path\"`, or remove it";
        section.wrong(span, format!("`{key}` has no meaning without `http`"), help);
    }
}

fn instances(section: &mut Section<'_>, keys: &AppKeys) -> u8 {
    let Some(instances) = &keys.instances else { return 1 };
    if let (2.., Some(port)) = (instances.value, &keys.port) {
        section.exclude(
            [("instances", &instances.span), ("port", &port.span)],
            "several instances cannot listen on one port: remove `port` and tell the program \
             `{port}`, or run one",
        );
    }
    instances.value
}

fn needs(keys: &AppKeys) -> Vec<AppId> {
    let written = keys.needs.iter().flat_map(|needs| &needs.value);
    written.map(|need| need.value.0.clone()).collect()
}

/// Longest time before its hours at which an app is started.
const LONGEST_PREWARM: Duration = Duration::from_secs(24 * 3600);

fn awake(section: &mut Section<'_>, keys: &AppKeys) -> Option<AwakeSpec> {
    let Some(hours) = &keys.keep_awake else {
        if let Some(prewarm) = keys.prewarm.as_ref().filter(|_| !section.is_broken()) {
            let message = "`prewarm` has no meaning without `keep_awake`";
            section.wrong(&prewarm.span, message, "add `keep_awake`, or remove it");
        }
        return None;
    };
    if let Some(start) = keys.start.as_ref().filter(|start| start.value == StartChoice::Always) {
        section.exclude(
            [("start = \"always\"", &start.span), ("keep_awake", &hours.span)],
            "an app that always runs needs no hours: remove one of the two",
        );
    }
    let windows: Vec<Window> = hours.each().into_iter().map(|(hours, _)| hours.clone()).collect();
    if windows.is_empty() && !section.is_broken() {
        let help = "write hours such as `Mon-Fri 08:00-18:00`, or leave the key out";
        section.wrong(&hours.span, "no hours at all", help);
    }
    let prewarm = keys.prewarm.as_ref().map(|prewarm| prewarm.value.0);
    if let Some(at) = keys.prewarm.as_ref().filter(|at| at.value.0 > LONGEST_PREWARM) {
        section.wrong(&at.span, "longer than a day", "write `1d` or less, or longer hours");
    }
    (!windows.is_empty()).then_some(AwakeSpec { windows, prewarm })
}

fn idle(section: &mut Section<'_>, keys: &AppKeys, spec: &mut ProcessSpec) {
    let is_always = keys.start.as_ref().is_some_and(|start| start.value == StartChoice::Always);
    if is_always {
        spec.idle_stop_after = None;
    }
    let Some(idle) = &keys.idle else { return };
    let (freeze_after, stop_after) = (idle.value.freeze_after.0.0, idle.value.stop_after.0.0);
    let sleeps = freeze_after.or(stop_after);
    if let (true, Some(_), Some(start)) = (is_always, sleeps, &keys.start) {
        section.exclude(
            [("start = \"always\"", &start.span), ("idle", &idle.span)],
            "an app that always runs is never idle: remove `idle`, or write `start = \
             \"with-server\"`",
        );
    }
    if let (Some(freeze), Some(stop)) = (freeze_after, stop_after)
        && freeze >= stop
        && !section.is_broken()
    {
        section.wrong(
            &idle.span,
            "it would be stopped before it is frozen",
            "make `freeze_after` shorter than `stop_after`",
        );
    }
    spec.idle_freeze_after = freeze_after;
    spec.idle_stop_after = stop_after;
    spec.awake_at_most = idle.value.awake_at_most.0;
}

fn stopping(keys: &StopKeys) -> StopSpec {
    StopSpec { signal: keys.signal.number(), grace: keys.grace.0.0, drain: keys.drain.0 }
}

fn back_off(section: &mut Section<'_>, keys: &BackOffKeys) -> BackOffSpec {
    let (initial, max) = (keys.initial.value.0.0, keys.max.value.0.0);
    if initial > max && !section.is_broken() {
        let span = if keys.initial.span.is_empty() { &keys.max.span } else { &keys.initial.span };
        section.wrong(span, "`initial` is longer than `max`", "raise `max`, or lower `initial`");
    }
    BackOffSpec { initial, max, reset_after: keys.reset_after.0.0 }
}

/// Least memory that any program starts in.
const LEAST_MEMORY: ByteSize = ByteSize(1 << 20);

fn resources(section: &mut Section<'_>, keys: &AppLimitKeys) -> ResourceSpec {
    if let Some(memory) = &keys.memory
        && memory.value.0 < LEAST_MEMORY
    {
        section.wrong(&memory.span, "too little memory for any program", "write 1MiB or more");
    }
    ResourceSpec {
        memory: keys.memory.as_ref().map(|memory| memory.value.0),
        // In range: 10 to 1,024,000.
        cpu: keys.cpu.as_ref().map(|cpu| MilliCores((cpu.value * 1000.0).round() as u32)),
        processes: keys.processes.as_ref().map(|processes| processes.value),
        files: keys.files.as_ref().map(|files| files.value),
    }
}

fn enclosure(section: &mut Section<'_>, keys: &AppKeys) -> EnclosureSpec {
    let read_only = keys.read_only_paths.as_ref().map(|paths| paths.value.as_slice());
    let read_write = keys.read_write_paths.as_ref().map(|paths| paths.value.as_slice());
    let resolve = |paths: Option<&[At<Text<FilePath>>]>| -> Vec<PathBuf> {
        let paths = paths.unwrap_or_default().iter();
        paths.map(|path| section.resolve(&path.value.0)).collect()
    };
    let spec = EnclosureSpec {
        private_tmp: keys.private_tmp.as_ref().is_some_and(|at| at.value),
        read_only: resolve(read_only),
        read_write: resolve(read_write),
    };
    for path in read_write.unwrap_or_default() {
        let real = section.resolve(&path.value.0);
        if !spec.read_only.iter().any(|above| real.starts_with(above)) && !section.is_broken() {
            let help = "remove it, or write the folder around it into `read_only_paths`";
            section.wrong(&path.span, "it is below none of `read_only_paths`", help);
        }
    }
    spec
}

fn user(section: &mut Section<'_>, keys: &AppKeys) -> Option<UserSpec> {
    match (&keys.user, &keys.group) {
        (Some(user), group) => Some(UserSpec {
            name: user.value.0.0.clone(),
            group: group.as_ref().map(|group| group.value.0.0.clone()),
        }),
        (None, Some(group)) => {
            section.wrong(&group.span, "`group` has no meaning without `user`", "add `user`");
            None
        }
        (None, None) => None,
    }
}

fn logs(section: &mut Section<'_>, keys: &OutputKeys) -> OutputSpec {
    let max_size = keys.max_size.value.0;
    if max_size.0 < 4096 {
        section.wrong(&keys.max_size.span, "too small for a log", "write 4KiB or more");
    }
    OutputSpec { max_size, keep: keys.keep }
}
