//! An app that somebody else runs.

use super::Section;
use crate::{
    file::{
        keys::{HealthKeys, UpstreamChoice},
        text::At,
    },
    spec::{HealthSpec, HttpProbe, UpstreamServer, UpstreamSpec},
};

pub(super) fn compile(
    section: &mut Section<'_>,
    choice: &At<UpstreamChoice>,
) -> Option<UpstreamSpec> {
    let spec = match &choice.value {
        UpstreamChoice::One(server) => UpstreamSpec::new(vec![server.0.clone()]),
        UpstreamChoice::Many(servers) => {
            UpstreamSpec::new(servers.iter().map(|server| server.value.0.clone()).collect())
        }
        UpstreamChoice::Table(keys) => UpstreamSpec {
            servers: keys.servers.each().into_iter().map(|(server, _)| server.clone()).collect(),
            max_fails: keys.max_fails,
            fail_timeout: keys.fail_timeout.0.0,
            health: keys.health.as_ref().map(|keys| health(section, keys)),
        },
    };
    if !spec.servers.is_empty() {
        return one_scheme(section, choice, &spec.servers).then_some(spec);
    }
    if !section.is_broken() {
        let help = "write at least one, such as `http://10.0.0.5:3000`";
        section.wrong(&choice.span, "an upstream without servers", help);
    }
    None
}

/// Whether all servers are spoken to alike: with TLS, or without.
fn one_scheme(
    section: &mut Section<'_>,
    choice: &At<UpstreamChoice>,
    servers: &[UpstreamServer],
) -> bool {
    let tls = servers.iter().filter(|at| matches!(at, UpstreamServer::Https { .. })).count();
    let is_one = tls == 0 || tls == servers.len();
    if !is_one {
        section.wrong(
            &choice.span,
            "some servers with TLS and some without",
            "write `https://` for all, or for none",
        );
    }
    is_one
}

fn health(section: &mut Section<'_>, keys: &HealthKeys) -> HealthSpec {
    let (interval, timeout) = (keys.interval.value.0.0, keys.timeout.value.0.0);
    if timeout > interval && !section.is_broken() {
        let span =
            if keys.timeout.span.is_empty() { &keys.interval.span } else { &keys.timeout.span };
        let help = "raise `interval`, or lower `timeout`";
        section.wrong(span, "`timeout` is longer than `interval`", help);
    }
    HealthSpec {
        probe: HttpProbe {
            path: keys.path.0.0.clone(),
            status: keys.status.as_ref().map(|status| status.value),
            body: keys.body.as_ref().map(|body| body.0.0.clone()),
            host: keys.host.as_ref().map(|host| host.0.0.clone()),
        },
        interval,
        timeout,
    }
}
