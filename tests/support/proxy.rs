//! A network between the program and a server, which can fail.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How often a connection looks whether it may go on.
const POLL: Duration = Duration::from_millis(10);

/// Takes connections on a port of loopback, and passes bytes on to another.
pub struct Network {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    /// Bytes are taken, and not passed on.
    is_black_hole: AtomicBool,
    server: Mutex<SocketAddr>,
    open: Mutex<Vec<TcpStream>>,
    accepted: AtomicUsize,
}

impl Network {
    pub fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            is_black_hole: AtomicBool::new(false),
            server: Mutex::new(([127, 0, 0, 1], port).into()),
            open: Mutex::default(),
            accepted: AtomicUsize::new(0),
        });
        let accepting = state.clone();
        // They end with the process.
        thread::spawn(move || {
            for client in listener.incoming() {
                accepting.accept(client.unwrap());
            }
        });
        Self { port: own, state }
    }

    /// From now on, whoever connects gets there, as with an address that moves.
    pub fn lead_to(&self, port: u16) {
        *self.state.server.lock().unwrap() = ([127, 0, 0, 1], port).into();
    }

    /// Connections stay, new ones too, and nothing comes through; or all of it does again.
    pub fn swallow(&self, swallow: bool) {
        self.state.is_black_hole.store(swallow, Ordering::SeqCst);
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        for open in self.state.open.lock().unwrap().drain(..) {
            let _ = open.shutdown(Shutdown::Both);
        }
    }

    /// How many connections were made so far.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }
}

impl State {
    fn accept(self: &Arc<Self>, client: TcpStream) {
        self.accepted.fetch_add(1, Ordering::SeqCst);
        // Who finds nobody there is told so by a connection that ends.
        let server = *self.server.lock().unwrap();
        let Ok(server) = TcpStream::connect(server) else { return };
        self.open
            .lock()
            .unwrap()
            .extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
        for (from, to) in [
            (client.try_clone().unwrap(), server.try_clone().unwrap()),
            (server, client),
        ] {
            let state = self.clone();
            thread::spawn(move || state.pass(from, to));
        }
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = [0; 16 << 10];
        loop {
            let read = from.read(&mut bytes).unwrap_or(0);
            while self.is_black_hole.load(Ordering::SeqCst) {
                thread::sleep(POLL);
            }
            if read == 0 || to.write_all(&bytes[..read]).is_err() {
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}
