//! An app that ignores the port it was given: where else it listens, and whether it is to be served
//! there.
//!
//! Apps open ports for debuggers and figures too, and often before their own: to lead visitors there
//! would be far worse than a start that fails. So only what holds everything of this is taken: the app
//! was given any free port and has not listened on it within a while, listens on one other port alone, on
//! loopback or every address, and answers HTTP there as a site does.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use doorbell_config::spec::{EndpointSpec, HttpProbe};
use tokio::{sync::watch as channel, time::timeout};

use super::{Instance, Note};
use crate::{driver::ear::Heard, message::Endpoint};

/// Time for the app to listen on the port it was given, after it was last heard on another.
const GRACE: Duration = Duration::from_secs(1);

/// Where an app listens, but for its own port.
#[derive(Debug, PartialEq, Eq)]
enum Elsewhere {
    Nowhere,
    At(SocketAddr),
    /// More than one may be right, or none.
    Unclear(String),
}

impl Instance {
    /// Whether the app was left a port that it may have ignored, and would be heard. One that does not
    /// speak HTTP cannot be asked whether another one is right.
    pub(super) fn may_be_elsewhere(&self) -> bool {
        let is_any = |process: &doorbell_config::spec::ProcessSpec| {
            process.endpoint == EndpointSpec::AnyPort
        };
        self.ear.is_some() && self.job.app.tcp().is_none() && self.job.process().is_ok_and(is_any)
    }

    /// Whether the app itself was heard there, so that nobody else can be.
    pub(super) fn is_heard_at(&self, found: &Endpoint) -> bool {
        let Endpoint::Tcp(address) = found else { return false };
        self.ear.as_ref().is_some_and(|ear| ear.heard().borrow().includes(*address))
    }

    /// Waits until the app answers where it was not told to listen, for ever if need be.
    pub(super) async fn until_elsewhere_answers(&self, http: Option<&HttpProbe>) -> Endpoint {
        let (Some(ear), Some(own)) = (&self.ear, self.place.port()) else {
            return std::future::pending().await;
        };
        if !self.may_be_elsewhere() {
            return std::future::pending().await;
        }
        if self.is_adopted
            && let Err(error) = self.remember_listeners(ear).await
        {
            tracing::warn!(app = %self.job.app.id, %error, "cannot see where it listens");
        }
        let any = HttpProbe::new("/");
        let mut heard = ear.heard();
        loop {
            let found = Endpoint::Tcp(self.until_elsewhere(&mut heard, own).await);
            if self.belongs_to_us(&found).await.is_err() {
                changed(&mut heard).await;
                continue;
            }
            tokio::select! {
                () = self.until_answered(&found, http.unwrap_or(&any)) => return found,
                () = changed(&mut heard) => self.tell(Note::EndProbe).await,
            }
        }
    }

    /// Waits until it is clear where else the app listens.
    async fn until_elsewhere(&self, heard: &mut channel::Receiver<Heard>, own: u16) -> SocketAddr {
        loop {
            let elsewhere = Elsewhere::of(&heard.borrow_and_update(), own);
            self.last_look().set_elsewhere(elsewhere.words(own));
            match elsewhere {
                Elsewhere::At(address) if timeout(GRACE, changed(heard)).await.is_err() => {
                    return address;
                }
                Elsewhere::At(_) => {}
                Elsewhere::Nowhere | Elsewhere::Unclear(_) => changed(heard).await,
            }
        }
    }

    /// What an operator should know of where a ready instance listens.
    pub(super) fn odd_place(&self, endpoint: &Endpoint) -> Option<String> {
        let (Endpoint::Tcp(address), Some(own)) = (endpoint, self.place.port()) else {
            return None;
        };
        let port = address.port();
        (port != own).then(|| {
            format!(
                "the app listens on {address}, not on PORT {own}, and is served there: have it listen \
                 on PORT, or write `port = {port}`"
            )
        })
    }
}

/// Waits until more is heard. If nothing will be, for ever.
async fn changed(heard: &mut channel::Receiver<Heard>) {
    if heard.changed().await.is_err() {
        std::future::pending().await
    }
}

impl Elsewhere {
    fn of(heard: &Heard, own: u16) -> Self {
        if heard.addresses.iter().any(|address| address.port() == own) {
            return Self::Nowhere;
        }
        let ports: Vec<u16> = heard.addresses.iter().map(|address| address.port()).collect();
        let Some((first, rest)) = heard.addresses.split_first() else { return Self::Nowhere };
        if ports.iter().any(|port| *port != first.port()) {
            let named: Vec<_> = heard.addresses.iter().map(ToString::to_string).collect();
            return Self::Unclear(named.join(" and "));
        }
        match std::iter::once(first).chain(rest).find_map(|address| reachable(*address)) {
            Some(address) => Self::At(address),
            None => Self::Unclear(first.to_string()),
        }
    }

    fn words(&self, own: u16) -> Option<String> {
        match self {
            Self::Nowhere => None,
            Self::At(address) => Some(format!("it listens on {address}, not on PORT {own}")),
            Self::Unclear(named) => Some(format!(
                "it listens on {named}, not on PORT {own}: have it listen on PORT, or write `port`"
            )),
        }
    }
}

/// Where one reaches a listener from here, if on loopback.
fn reachable(heard: SocketAddr) -> Option<SocketAddr> {
    let ip = match heard.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip if ip.is_loopback() => ip,
        _ => return None,
    };
    Some(SocketAddr::new(ip, heard.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elsewhere(addresses: &[&str]) -> Elsewhere {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Elsewhere::of(&Heard { addresses, ..Heard::default() }, 4021)
    }

    #[test]
    fn only_one_port_of_loopback_is_taken_for_the_ignored_one() {
        let at = |address: &str| Elsewhere::At(address.parse().unwrap());
        assert_eq!(elsewhere(&[]), Elsewhere::Nowhere);
        assert_eq!(elsewhere(&["127.0.0.1:3000"]), at("127.0.0.1:3000"));
        assert_eq!(elsewhere(&["0.0.0.0:3000", "[::]:3000"]), at("127.0.0.1:3000"));
        assert_eq!(elsewhere(&["[::]:3000"]), at("[::1]:3000"));
        assert_eq!(elsewhere(&["127.0.0.1:9229", "127.0.0.1:4021"]), Elsewhere::Nowhere);
        for unclear in [&["127.0.0.1:9229", "127.0.0.1:3000"][..], &["10.0.0.1:3000"]] {
            assert!(matches!(elsewhere(unclear), Elsewhere::Unclear(_)), "{unclear:?}");
        }
    }
}
