//! The life of a connection: which callbacks are still due (pure).
//!
//! ```text
//!             close()                    buffer drained
//!   Open ───────────────▶ Closing ───────────────────────────┐
//!    │  └ (buffer empty) ────────────┐        │              │
//!    │ abort(), fatal error          ▼        ▼ abort()      ▼
//!    └─────────────────────────────▶ Lost: connection_lost is due ──▶ Closed: it was called
//! ```
//!
//! Reading and writing end on their own: `eof_received` ends reading once (invariant 1),
//! `write_eof` ends writing once all that was written before it is sent.

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Reads and writes.
    Open,
    /// `close()` was called and data still waits to be sent; nothing is read any more.
    Closing,
    /// `connection_lost` is scheduled.
    Lost,
    /// It is due, and there was no memory to schedule it.
    Untold,
    /// `connection_lost` was called (or its call began); the descriptor is closed.
    Closed,
}

/// The reading side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// `connection_made` comes first.
    NotStarted,
    Started,
    /// The peer's end of stream was seen.
    Ended,
}

/// The writing side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    Open,
    /// sendfile writes beside the transport: it may not write now.
    Held,
    /// `write_eof()` was called: nothing more may be written.
    Ended,
}

/// What has to be done after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Shut the writing side down: all is sent.
    ShutDown,
    /// Call `connection_lost` in a later turn.
    ScheduleLost,
    /// Call `connection_lost` now: the loop itself is the caller (the last byte was sent).
    CallLost,
}

/// State of one connection. Events are methods; nothing else can write the state.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionState {
    phase: Phase,
    reading: Reading,
    writing: Writing,
    paused: bool,
}

impl Default for ConnectionState {
    fn default() -> ConnectionState {
        ConnectionState {
            phase: Phase::Open,
            reading: Reading::NotStarted,
            writing: Writing::Open,
            paused: false,
        }
    }
}

impl ConnectionState {
    /// `is_closing()`: closed, or about to be.
    pub fn is_closing(self) -> bool {
        self.phase != Phase::Open
    }

    /// `is_reading()`: neither closing nor paused (asyncio's meaning, which end of stream and a
    /// read side that is not started yet do not change).
    pub fn is_reading(self) -> bool {
        self.phase == Phase::Open && !self.paused
    }

    /// Whether reading is paused; a close does not change that.
    pub fn is_paused(self) -> bool {
        self.paused
    }

    /// Whether the peer's end of stream was received.
    pub fn is_read_ended(self) -> bool {
        self.reading == Reading::Ended
    }

    /// Whether the descriptor is to be watched for reading.
    pub fn wants_read(self) -> bool {
        self.is_reading() && self.reading == Reading::Started
    }

    /// Whether the start of reading is due still: `connection_made` comes before it.
    pub fn awaits_start(self) -> bool {
        self.phase == Phase::Open && self.reading == Reading::NotStarted
    }

    /// Whether the writing end of a pipe is to be watched for its reader's going: from its start
    /// on, paused or not, as long as there is something to lose.
    pub fn awaits_hang_up(self) -> bool {
        self.reading == Reading::Started && !self.is_lost()
    }

    /// Whether `connection_lost` is scheduled or was called: what is written is dropped.
    pub fn is_lost(self) -> bool {
        matches!(self.phase, Phase::Lost | Phase::Untold | Phase::Closed)
    }

    /// Whether `connection_lost` was called: the descriptor is closed.
    pub fn is_closed(self) -> bool {
        self.phase == Phase::Closed
    }

    /// Keeps the transport from writing, for sendfile; false where it is held already.
    pub fn hold_writing(&mut self) -> bool {
        let free = self.writing != Writing::Held;
        if self.writing == Writing::Open {
            self.writing = Writing::Held;
        }
        free
    }

    /// The end of [`hold_writing`](Self::hold_writing).
    pub fn release_writing(&mut self) {
        if self.writing == Writing::Held {
            self.writing = Writing::Open;
        }
    }

    /// Whether sendfile keeps the transport from writing.
    pub fn is_writing_held(self) -> bool {
        self.writing == Writing::Held
    }

    /// Whether a write may go on to look at its data: neither ended nor held.
    pub fn may_write(self) -> bool {
        self.writing == Writing::Open
    }

    /// Whether `write_eof()` was called.
    pub fn is_write_ended(self) -> bool {
        self.writing == Writing::Ended
    }

    /// Reading may begin: `connection_made` was called.
    pub fn start_reading(&mut self) {
        if self.reading == Reading::NotStarted {
            self.reading = Reading::Started;
        }
    }

    /// `pause_reading()`; false where it changes nothing.
    pub fn pause_reading(&mut self) -> bool {
        let change = self.is_reading();
        self.paused |= change;
        change
    }

    /// `resume_reading()`; false where it changes nothing.
    pub fn resume_reading(&mut self) -> bool {
        let change = self.phase == Phase::Open && self.paused;
        if change {
            self.paused = false;
            self.start_reading();
        }
        change
    }

    /// The peer's end of stream arrived; false where it was seen before.
    pub fn receive_eof(&mut self) -> bool {
        let first = self.reading != Reading::Ended;
        self.reading = Reading::Ended;
        first
    }

    /// `write_eof()` with so many bytes still to be sent.
    pub fn write_eof(&mut self, buffered: usize) -> Step {
        if self.phase != Phase::Open || self.writing == Writing::Ended {
            return Step::Nothing;
        }
        self.writing = Writing::Ended;
        if buffered == 0 { Step::ShutDown } else { Step::Nothing }
    }

    /// `close()` with so many bytes still to be sent.
    pub fn close(&mut self, buffered: usize) -> Step {
        if self.phase != Phase::Open {
            return Step::Nothing;
        }
        if buffered == 0 {
            return self.force_close();
        }
        self.phase = Phase::Closing;
        Step::Nothing
    }

    /// `abort()`, or an error: what is buffered is dropped.
    pub fn force_close(&mut self) -> Step {
        if self.is_lost() {
            return Step::Nothing;
        }
        self.phase = Phase::Lost;
        Step::ScheduleLost
    }

    /// All that was buffered is sent.
    pub fn drained(&mut self) -> Step {
        match (self.phase, self.writing) {
            (Phase::Closing, _) => {
                self.phase = Phase::Lost;
                Step::CallLost
            }
            (Phase::Open, Writing::Ended) => Step::ShutDown,
            _ => Step::Nothing,
        }
    }

    /// `connection_lost` could not be scheduled.
    pub fn leave_untold(&mut self) {
        if self.phase == Phase::Lost {
            self.phase = Phase::Untold;
        }
    }

    /// Whether `connection_lost` is due and not scheduled.
    pub fn is_untold(self) -> bool {
        self.phase == Phase::Untold
    }

    /// `connection_lost` is being called; false where it was called before (invariant 1).
    pub fn lose(&mut self) -> bool {
        let first = self.phase != Phase::Closed;
        self.phase = Phase::Closed;
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Start,
        Pause,
        Resume,
        Eof,
        WriteEof(usize),
        Close(usize),
        Abort,
        Drained,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Start),
            Just(Event::Pause),
            Just(Event::Resume),
            Just(Event::Eof),
            (0usize..2).prop_map(Event::WriteEof),
            (0usize..2).prop_map(Event::Close),
            Just(Event::Abort),
            Just(Event::Drained),
        ]
    }

    proptest! {
        /// Invariant 1, whatever comes in whatever order: connection_lost is due at most once,
        /// the end of stream is told at most once, nothing is read after either, and a shutdown
        /// happens at most once and never after the loss.
        #[test]
        fn callbacks_come_once(events in prop::collection::vec(event(), 0..60)) {
            let mut state = ConnectionState::default();
            let (mut lost, mut eof, mut shut) = (0, 0, 0);
            for event in events {
                let step = match event {
                    Event::Start => { state.start_reading(); Step::Nothing }
                    Event::Pause => { state.pause_reading(); Step::Nothing }
                    Event::Resume => { state.resume_reading(); Step::Nothing }
                    Event::Eof => { eof += usize::from(state.receive_eof()); Step::Nothing }
                    Event::WriteEof(buffered) => state.write_eof(buffered),
                    Event::Close(buffered) => state.close(buffered),
                    Event::Abort => state.force_close(),
                    Event::Drained => state.drained(),
                };
                match step {
                    Step::ScheduleLost | Step::CallLost => lost += 1,
                    Step::ShutDown => {
                        prop_assert_eq!(lost, 0);
                        // The owner shuts down once: write_eof with an empty buffer, or the
                        // first time the buffer drains after it.
                        shut += 1;
                    }
                    Step::Nothing => {}
                }
                if lost > 0 || eof > 0 {
                    prop_assert!(!state.wants_read());
                }
                prop_assert_eq!(state.is_lost(), lost > 0);
                prop_assert!(lost <= 1 && eof <= 1);
                prop_assert!(shut == 0 || state.is_write_ended());
            }
            prop_assert!(state.lose());
            prop_assert!(!state.lose());
        }
    }

    #[test]
    fn close_waits_for_the_buffer() {
        let mut state = ConnectionState::default();
        state.start_reading();
        assert_eq!(state.close(10), Step::Nothing);
        assert!(state.is_closing() && !state.is_lost() && !state.wants_read());
        assert_eq!(state.drained(), Step::CallLost);
        assert_eq!(state.close(0), Step::Nothing);
    }

    #[test]
    fn a_loss_that_is_untold_is_told_once() {
        let mut state = ConnectionState::default();
        state.leave_untold();
        assert!(!state.is_untold(), "nothing is lost");
        assert_eq!(state.force_close(), Step::ScheduleLost);
        state.leave_untold();
        assert!(state.is_untold() && state.is_lost() && !state.is_closed());
        assert_eq!(state.force_close(), Step::Nothing);
        assert!(state.lose() && !state.is_untold());
        state.leave_untold();
        assert!(!state.is_untold());
    }

    #[test]
    fn a_pause_before_the_start_holds() {
        let mut state = ConnectionState::default();
        assert!(state.pause_reading());
        state.start_reading();
        assert!(!state.wants_read());
        assert!(state.resume_reading());
        assert!(state.wants_read());
    }
}
