//! Where a TLS connection is (pure).
//!
//! ```text
//! Unwrapped --start_handshake--> DoHandshake --finish_handshake--> Wrapped
//!     Wrapped --start_flushing--> Flushing --start_shutdown--> Shutdown
//!     any --unwrap--> Unwrapped: failed, aborted or lost
//! ```
//!
//! The application's side goes `Init -> Made -> Ended -> Lost` on its own, and two pairs of
//! watermarks say who is paused. The states, their names and the limits are those of CPython's
//! `asyncio/sslproto.py`.

use crate::transport::flow_control::Limits;

/// Where the session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// No TLS yet, or no more.
    Unwrapped,
    /// The handshake is under way; nothing of the application's is sent or received.
    DoHandshake,
    /// Data goes both ways.
    Wrapped,
    /// `close()` was called, or the peer has ended: what was written leaves still.
    Flushing,
    /// The closing alerts (close_notify) are exchanged.
    Shutdown,
}

/// How much the application has heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Application {
    Init,
    Made,
    Ended,
    Lost,
}

/// Whether a direction flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Open,
    Paused,
}

/// What flow control asks for after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Change {
    /// Nothing.
    None,
    /// Pause.
    Pause,
    /// Resume.
    Resume,
}

/// Watermarks of what waits on one side, and whether it is paused for them.
#[derive(Clone, Copy, Debug)]
struct Watermark {
    limits: Limits,
    flow: Flow,
}

impl Watermark {
    fn new(direction: Direction) -> Watermark {
        let limits = Limits::new(Some(direction.default_high()), None).unwrap_or_default();
        Watermark { limits, flow: Flow::Open }
    }

    /// asyncio's edges for TLS, which are not those of other transports: pauses *at* the
    /// high-water mark, too.
    fn control(&mut self, size: usize) -> Change {
        if size >= self.limits.high() && self.flow == Flow::Open {
            self.flow = Flow::Paused;
            Change::Pause
        } else if size <= self.limits.low() && self.flow == Flow::Paused {
            self.flow = Flow::Open;
            Change::Resume
        } else {
            Change::None
        }
    }
}

/// Which way the data goes that limits are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Ciphertext that is not decrypted yet: over its limits the transport below is paused.
    Incoming,
    /// What was written and did not leave: over its limits the application is paused.
    Outgoing,
}

impl Direction {
    /// The high-water mark of a new connection, bytes.
    pub fn default_high(self) -> usize {
        match self {
            Direction::Incoming => INCOMING_HIGH,
            Direction::Outgoing => OUTGOING_HIGH,
        }
    }
}

/// High-water mark of received ciphertext, bytes.
const INCOMING_HIGH: usize = 256 * 1024;
/// High-water mark of what waits to be sent, bytes.
const OUTGOING_HIGH: usize = 512 * 1024;
/// So many writes to a lost connection are dropped in silence; each further one is logged.
const SILENT_WRITES: u32 = 5;

/// State of one TLS connection. Events are methods; nothing else can write the state.
#[derive(Clone, Copy, Debug)]
pub struct TlsState {
    session: Session,
    application: Application,
    /// `pause_reading()` of the application.
    reading: Flow,
    /// The transport below has asked to stop writing.
    transport: Flow,
    incoming: Watermark,
    outgoing: Watermark,
    peer_ended: bool,
    lost_writes: u32,
}

impl TlsState {
    /// A connection before its handshake. `made` where the application has had its
    /// `connection_made` already, as with `start_tls`.
    pub fn new(made: bool) -> TlsState {
        TlsState {
            session: Session::Unwrapped,
            application: if made { Application::Made } else { Application::Init },
            reading: Flow::Open,
            transport: Flow::Open,
            incoming: Watermark::new(Direction::Incoming),
            outgoing: Watermark::new(Direction::Outgoing),
            peer_ended: false,
            lost_writes: 0,
        }
    }

    /// Where the session is.
    pub fn session(&self) -> Session {
        self.session
    }

    fn advance(&mut self, from: Session, to: Session) -> bool {
        let allowed = self.session == from;
        if allowed {
            self.session = to;
        }
        allowed
    }

    /// The transport below is there; false where this is not the beginning.
    pub fn start_handshake(&mut self) -> bool {
        self.advance(Session::Unwrapped, Session::DoHandshake)
    }

    /// The handshake is done; false where it was given up meanwhile.
    pub fn finish_handshake(&mut self) -> bool {
        self.advance(Session::DoHandshake, Session::Wrapped)
    }

    /// No more data from the application; false where that is so already.
    pub fn start_flushing(&mut self) -> bool {
        self.advance(Session::Wrapped, Session::Flushing)
    }

    /// All is encrypted, the closing alert is next; false where the session has ended meanwhile.
    pub fn start_shutdown(&mut self) -> bool {
        self.advance(Session::Flushing, Session::Shutdown)
    }

    /// The session failed, was aborted or is lost.
    pub fn unwrap(&mut self) {
        self.session = Session::Unwrapped;
    }

    /// Whether what comes in is the application's to read.
    pub fn may_read(&self) -> bool {
        matches!(self.session, Session::Wrapped | Session::Flushing)
    }

    /// Whether what the application writes is taken: before and during the handshake it is kept.
    pub fn may_write(&self) -> bool {
        matches!(self.session, Session::DoHandshake | Session::Wrapped)
    }

    /// A write came too late; true where there were so many that it is worth a warning.
    pub fn note_lost_write(&mut self) -> bool {
        let warn = self.lost_writes >= SILENT_WRITES;
        self.lost_writes = self.lost_writes.saturating_add(1);
        warn
    }

    /// The stream below has ended.
    pub fn end_of_peer(&mut self) {
        self.peer_ended = true;
    }

    /// Whether the stream below has ended: a closing alert would reach nobody.
    pub fn has_peer_ended(&self) -> bool {
        self.peer_ended
    }

    /// True once: the application is to hear `connection_made`.
    pub fn make(&mut self) -> bool {
        let first = self.application == Application::Init;
        if first {
            self.application = Application::Made;
        }
        first
    }

    /// True once, after `connection_made`: the application is to hear `eof_received`.
    pub fn end(&mut self) -> bool {
        let first = self.application == Application::Made;
        if first {
            self.application = Application::Ended;
        }
        first
    }

    /// The transport below is lost. True where the application is to hear `connection_lost`: once,
    /// after `connection_made`, and not where the handshake has not ended.
    pub fn lose(&mut self) -> bool {
        let made = matches!(self.application, Application::Made | Application::Ended);
        let tell = made && self.session != Session::DoHandshake;
        if tell {
            self.application = Application::Lost;
        }
        self.session = Session::Unwrapped;
        self.lost_writes = self.lost_writes.saturating_add(1);
        tell
    }

    /// `is_reading()`: not paused by the application.
    pub fn is_reading(&self) -> bool {
        self.reading == Flow::Open
    }

    /// `pause_reading()`.
    pub fn pause_reading(&mut self) {
        self.reading = Flow::Paused;
    }

    /// `resume_reading()`; false where it changes nothing.
    pub fn resume_reading(&mut self) -> bool {
        let change = self.reading == Flow::Paused;
        self.reading = Flow::Open;
        change
    }

    /// Whether the transport below takes data.
    pub fn may_send(&self) -> bool {
        self.transport == Flow::Open
    }

    /// The transport below has called `pause_writing`.
    pub fn pause_sending(&mut self) {
        self.transport = Flow::Paused;
    }

    /// The transport below has called `resume_writing`.
    pub fn resume_sending(&mut self) {
        self.transport = Flow::Open;
    }

    /// Whether the application was told to pause writing.
    pub fn is_writing_paused(&self) -> bool {
        self.outgoing.flow == Flow::Paused
    }

    /// So much waits on that side now.
    pub fn control(&mut self, direction: Direction, size: usize) -> Change {
        self.side(direction).control(size)
    }

    /// The limits in force.
    pub fn limits(&self, direction: Direction) -> Limits {
        match direction {
            Direction::Incoming => self.incoming.limits,
            Direction::Outgoing => self.outgoing.limits,
        }
    }

    /// Sets the limits; [`control`](Self::control) with the present size is next.
    pub fn set_limits(&mut self, direction: Direction, limits: Limits) {
        self.side(direction).limits = limits;
    }

    fn side(&mut self, direction: Direction) -> &mut Watermark {
        match direction {
            Direction::Incoming => &mut self.incoming,
            Direction::Outgoing => &mut self.outgoing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Event {
        StartHandshake,
        FinishHandshake,
        StartFlushing,
        StartShutdown,
        Unwrap,
        Make,
        End,
        Lose,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::StartHandshake),
            Just(Event::FinishHandshake),
            Just(Event::StartFlushing),
            Just(Event::StartShutdown),
            Just(Event::Unwrap),
            Just(Event::Make),
            Just(Event::End),
            Just(Event::Lose),
        ]
    }

    proptest! {
        /// Whatever comes in whatever order, a session advances by single steps or falls back to
        /// its end, and the application hears each callback once and in order.
        #[test]
        fn sessions_advance_by_steps(
            made in any::<bool>(),
            events in prop::collection::vec(event(), 0..60),
        ) {
            let mut state = TlsState::new(made);
            let mut heard = if made { vec!["made"] } else { vec![] };
            for event in events {
                let before = state.session();
                let advanced = match event {
                    Event::StartHandshake => state.start_handshake(),
                    Event::FinishHandshake => state.finish_handshake(),
                    Event::StartFlushing => state.start_flushing(),
                    Event::StartShutdown => state.start_shutdown(),
                    Event::Unwrap => { state.unwrap(); true }
                    Event::Make => { if state.make() { heard.push("made") }; false }
                    Event::End => { if state.end() { heard.push("ended") }; false }
                    Event::Lose => { if state.lose() { heard.push("lost") }; true }
                };
                let step = (before, state.session());
                let known = matches!(step,
                    (Session::Unwrapped, Session::DoHandshake)
                    | (Session::DoHandshake, Session::Wrapped)
                    | (Session::Wrapped, Session::Flushing)
                    | (Session::Flushing, Session::Shutdown)
                    | (_, Session::Unwrapped));
                prop_assert!(known || before == state.session());
                prop_assert_eq!(before != state.session() && !advanced, false);
            }
            let order: &[&[&str]] = &[&[], &["made"], &["made", "ended"], &["made", "lost"],
                                      &["made", "ended", "lost"]];
            prop_assert!(order.contains(&heard.as_slice()), "{:?}", heard);
        }

        /// Pause and resume alternate, at the edges.
        #[test]
        fn pauses_alternate(
            low in 0usize..50,
            over in 1usize..50,
            sizes in prop::collection::vec(0usize..150, 0..60),
        ) {
            let high = low + over;
            let mut state = TlsState::new(true);
            let limits = Limits::new(Some(high), Some(low)).unwrap();
            state.set_limits(Direction::Outgoing, limits);
            let mut paused = false;
            for size in sizes {
                match state.control(Direction::Outgoing, size) {
                    Change::Pause => {
                        prop_assert!(!paused && size >= high);
                        paused = true;
                    }
                    Change::Resume => {
                        prop_assert!(paused && size <= low);
                        paused = false;
                    }
                    Change::None => {
                        let kept = if paused { size > low } else { size < high };
                        prop_assert!(kept);
                    }
                }
                prop_assert_eq!(state.is_writing_paused(), paused);
            }
        }
    }

    #[test]
    fn a_handshake_that_fails_is_not_the_applications() {
        let mut state = TlsState::new(true);
        assert!(state.start_handshake() && !state.start_handshake());
        assert!(!state.lose(), "not told: the handshake has not ended");
        assert!(state.lose(), "told: nothing is under way");
        assert!(!state.lose());
    }

    #[test]
    fn the_default_limits() {
        let state = TlsState::new(false);
        let limits = state.limits(Direction::Outgoing);
        assert_eq!((limits.low(), limits.high()), (128 * 1024, 512 * 1024));
        assert_eq!(state.limits(Direction::Incoming).high(), 256 * 1024);
    }
}
