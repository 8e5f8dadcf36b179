//! What apps need of each other: apps that are there, that Doorbell starts, and none that waits for
//! itself in the end.

use std::collections::{HashMap, HashSet};

use crate::{
    file::{
        RawApp,
        check::closest,
        source::{Finding, Findings, Place},
    },
    name::AppId,
    spec::{AppSpec, Backend},
};

/// Apps of a circle that are named one by one.
const MOST_NAMED: usize = 30;

/// Who answers an app's requests, as far as it can be made out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Program,
    Upstream,
    Shared,
    /// Something else is wrong with it.
    Unclear,
}

/// One app, and where it says what it needs.
struct Node<'a> {
    id: &'a AppId,
    kind: Kind,
    needs: Vec<Need<'a>>,
}

struct Need<'a> {
    id: &'a AppId,
    /// Unknown for files that were read before.
    place: Option<Place>,
}

struct Graph<'a> {
    nodes: Vec<Node<'a>>,
    by_id: HashMap<&'a AppId, usize>,
}

/// Checks what these apps need of each other, and of those that are known already.
pub(super) fn check(apps: &[RawApp], others: &[&AppSpec], findings: &mut Findings) {
    if apps.iter().all(|app| app.keys.needs.is_none()) {
        return;
    }
    let graph = Graph::of(apps, others);
    for node in &graph.nodes {
        graph.check_needs(node, findings);
    }
    for circle in graph.circles() {
        findings.extend(graph.tell(&circle));
    }
}

/// Whether every app that one of these needs is a program among them.
pub(in crate::file) fn are_there<'a>(apps: impl Iterator<Item = &'a AppSpec> + Clone) -> bool {
    let mut needs = apps.clone().filter_map(needs_of).flatten().peekable();
    if needs.peek().is_none() {
        return true;
    }
    let programs: HashSet<&AppId> =
        apps.filter(|app| kind(app) == Kind::Program).map(|app| &app.id).collect();
    needs.all(|need| programs.contains(need))
}

fn kind(app: &AppSpec) -> Kind {
    match &app.backend {
        Backend::Process(_) => Kind::Program,
        Backend::Upstream(_) => Kind::Upstream,
        Backend::Shared(_) => Kind::Shared,
    }
}

fn needs_of(app: &AppSpec) -> Option<&[AppId]> {
    match &app.backend {
        Backend::Process(process) => Some(&process.needs),
        Backend::Upstream(_) | Backend::Shared(_) => None,
    }
}

impl<'a> Node<'a> {
    fn raw(app: &'a RawApp) -> Self {
        let kind = match (&app.keys.command, &app.keys.upstream) {
            _ if app.keys.shared_with.is_some() => Kind::Shared,
            (Some(_), None) => Kind::Program,
            (None, Some(_)) => Kind::Upstream,
            (Some(_), Some(_)) | (None, None) => Kind::Unclear,
        };
        let place =
            |span: &std::ops::Range<usize>| Place { file: app.place.file, span: span.clone() };
        let written = app.keys.needs.iter().flat_map(|needs| &needs.value);
        let needs = written
            .map(|need| Need { id: &need.value.0, place: Some(place(&need.span)) })
            .collect();
        Self { id: &app.id, kind, needs }
    }

    fn known(app: &'a AppSpec) -> Self {
        let needs = needs_of(app).unwrap_or_default();
        let needs = needs.iter().map(|id| Need { id, place: None }).collect();
        Self { id: &app.id, kind: kind(app), needs }
    }
}

impl<'a> Graph<'a> {
    fn of(apps: &'a [RawApp], others: &[&'a AppSpec]) -> Self {
        let known = others.iter().map(|app| Node::known(app));
        let nodes: Vec<_> = apps.iter().map(Node::raw).chain(known).collect();
        // Of two apps with one id the first counts, as everywhere.
        let by_id = nodes.iter().enumerate().rev().map(|(at, node)| (node.id, at)).collect();
        Self { nodes, by_id }
    }

    fn check_needs(&self, node: &Node<'_>, findings: &mut Findings) {
        let mut seen: HashMap<&AppId, &Place> = HashMap::new();
        for need in &node.needs {
            let Some(place) = &need.place else { return };
            let finding = |message: &str| Finding::error(place.clone(), message);
            if let Some(first) = seen.insert(need.id, place) {
                let finding = finding("this app stands here twice").note("first at", first.clone());
                findings.push(finding.help("remove one of them"));
                continue;
            }
            match self.by_id.get(need.id).map(|at| self.nodes[*at].kind) {
                None => findings
                    .push(finding("there is no app of this id").help(self.nearest(node, need))),
                Some(Kind::Upstream) => {
                    let message = format!(
                        "app `{}` is served by upstream servers, which Doorbell does not start",
                        need.id
                    );
                    let help = "remove it: only an app with a `command` can be needed";
                    findings.push(finding(&message).help(help));
                }
                Some(Kind::Shared) => {
                    let message = format!("app `{}` has no program of its own", need.id);
                    let help = "write the app that it shares one with: see its `shared_with`";
                    findings.push(finding(&message).help(help));
                }
                Some(Kind::Program | Kind::Unclear) => {}
            }
        }
    }

    fn nearest(&self, node: &Node<'_>, need: &Need<'_>) -> String {
        let others = self.nodes.iter().filter(|other| other.id != node.id);
        let ids = others.map(|other| other.id.as_str());
        match closest(need.id.as_str(), ids) {
            Some(known) => format!("did you mean \"{known}\"?"),
            None => "write the id of an app, the part after `app.`".to_owned(),
        }
    }

    /// Every circle, once: found where the search meets an app that it is still below of. Without
    /// recursion, since the chain may be as long as the file.
    fn circles(&self) -> Vec<Vec<usize>> {
        #[derive(Clone, Copy, PartialEq, Eq)]
        enum Seen {
            Not,
            Above,
            Done,
        }
        let mut seen = vec![Seen::Not; self.nodes.len()];
        let mut circles = Vec::new();
        for root in 0..self.nodes.len() {
            if seen[root] != Seen::Not {
                continue;
            }
            // Each with the number of needs that were followed.
            let mut path = vec![(root, 0)];
            seen[root] = Seen::Above;
            while let Some((node, followed)) = path.last_mut() {
                let (at, need) = (*node, self.nodes[*node].needs.get(*followed));
                *followed += 1;
                let Some(need) = need else {
                    seen[at] = Seen::Done;
                    path.pop();
                    continue;
                };
                let Some(&next) = self.by_id.get(need.id) else { continue };
                match seen[next] {
                    Seen::Done => {}
                    Seen::Not => {
                        seen[next] = Seen::Above;
                        path.push((next, 0));
                    }
                    Seen::Above => {
                        let above = path.iter().map(|(node, _)| *node);
                        circles.push(above.skip_while(|node| *node != next).collect());
                    }
                }
            }
        }
        circles
    }

    /// The finding of a circle, at the first of its apps.
    fn tell(&self, circle: &[usize]) -> Option<Finding> {
        let first = (0..circle.len()).min_by_key(|at| circle[*at])?;
        let ids: Vec<&AppId> = (0..=circle.len())
            .map(|step| self.nodes[circle[(first + step) % circle.len()]].id)
            .collect();
        let need = self.nodes[circle[first]].needs.iter().find(|need| need.id == ids[1])?;
        let mut names: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
        if names.len() > MOST_NAMED {
            names.splice(MOST_NAMED / 2..names.len() - MOST_NAMED / 2, ["..."]);
        }
        let message = format!("no app can wait for itself: {}", names.join(" needs "));
        let finding = Finding::error(need.place.clone()?, message);
        Some(finding.help("remove one of these needs"))
    }
}
