//! A peer that says nothing: whether it is there at all.

use std::future::Future;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::error::{Error, Result};

/// When the kernel asks a peer that says nothing whether it is there, how often, and how many times.
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;
/// How long what we send may stay unacknowledged.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);
/// Between two looks nobody may have listened: what is older was not silence.
const DEAF: Duration = Duration::from_secs(5);

/// Sends at once what is written, and lets the kernel notice a peer that is gone
/// without a word: a lost machine, a firewall that forgot the connection.
pub fn watch(tcp: &TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = socket2::SockRef::from(tcp);
    let probes = socket2::TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_INTERVAL);
    socket.set_tcp_keepalive(&probes.with_retries(PROBES))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(())
}

/// How long a peer has said nothing while somebody listened. Something that
/// answers for it, such as a proxy, fools the kernel, and not this.
pub struct Silence {
    /// Since when, if it is being waited for.
    since: Option<Instant>,
    looked: Instant,
}

impl Silence {
    pub fn new() -> Self {
        Self {
            since: None,
            looked: Instant::now(),
        }
    }

    /// How long it lasts already.
    pub fn elapsed(&self) -> Duration {
        let listening = self.since.filter(|_| self.looked.elapsed() <= DEAF);
        listening.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Waits for the peer. May be dropped and begun again: the time counts on.
    ///
    /// Errors: those of `heard`, or nothing came for `limit`.
    pub async fn end(&mut self, limit: Option<Duration>, heard: impl Future<Output = Result<()>>) -> Result<()> {
        let now = Instant::now();
        if now - self.looked > DEAF {
            self.since = None;
        }
        self.looked = now;
        let since = *self.since.get_or_insert(now);
        let result = match limit {
            Some(limit) => match timeout_at(since + limit, heard).await {
                Ok(result) => result,
                Err(_) => Err(Error::transient(format!(
                    "the server said nothing for {} s",
                    limit.as_secs()
                ))),
            },
            None => heard.await,
        };
        self.since = None;
        self.looked = Instant::now();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Option<Duration> = Some(Duration::from_secs(60));

    async fn tick(silence: &mut Silence, limit: Option<Duration>) -> Option<Result<()>> {
        let tick = tokio::time::sleep(Duration::from_millis(50));
        tokio::select! {
            heard = silence.end(limit, std::future::pending()) => Some(heard),
            () = tick => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_noticed_however_often_the_wait_is_begun() {
        let (mut silence, started) = (Silence::new(), Instant::now());
        let heard = loop {
            if let Some(heard) = tick(&mut silence, LIMIT).await {
                break heard;
            }
        };
        assert!(
            heard
                .expect_err("silence")
                .to_string()
                .contains("said nothing for 60 s")
        );
        assert_eq!(started.elapsed().as_secs(), 60);
        // Without a limit, nobody minds.
        for _ in 0..2000 {
            assert!(tick(&mut silence, None).await.is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_listened_is_no_silence() {
        let mut silence = Silence::new();
        for _ in 0..5 {
            for _ in 0..600 {
                assert!(tick(&mut silence, LIMIT).await.is_none());
            }
            tokio::time::sleep(Duration::from_secs(40)).await;
            assert_eq!(silence.elapsed(), Duration::ZERO);
        }
        assert!(silence.end(LIMIT, async { Ok(()) }).await.is_ok());
        assert_eq!(silence.elapsed(), Duration::ZERO);
    }
}
