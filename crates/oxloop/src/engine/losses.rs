//! `connection_lost` of sources for which there was no memory to schedule it.

use super::*;

impl<F: Face> Engine<F> {
    /// Has a lost stream or endpoint told in a later turn, for want of memory to schedule it. The
    /// reason of the loss is not kept.
    pub fn lose_later(&self, token: Token) {
        let mut state = self.state.lock();
        let disowned = match state.sources.get_mut(token) {
            Some(Source::Stream(stream)) => {
                stream.state.leave_untold();
                stream.handler.own(true).is_some()
            }
            Some(Source::Endpoint(endpoint)) => {
                endpoint.state.leave_untold();
                endpoint.handler.own(true).is_some()
            }
            _ => return,
        };
        debug_assert!(!disowned);
        state.untold = true;
        drop(state);
        self.wake();
    }

    /// Queues what [`lose_later`](Self::lose_later) has left, as far as there is memory now.
    #[cold]
    pub(super) fn queue_untold(&self, state: &mut State<F>) {
        state.untold = false;
        let mut last = None;
        while let Some(token) = state.sources.next(last) {
            last = Some(token);
            let untold = match state.sources.get_mut(token) {
                Some(Source::Stream(stream)) => stream.state.is_untold(),
                Some(Source::Endpoint(endpoint)) => endpoint.state.is_untold(),
                _ => false,
            };
            if !untold {
                continue;
            }
            if state.ready.try_reserve(1).is_err() {
                state.untold = true;
                return;
            }
            state.ready.push_back(Ready::Lost(token));
        }
    }

    /// Calls `connection_lost`, unless it was called meanwhile.
    #[cold]
    pub(super) fn tell_loss(&self, cx: F::Context<'_>, token: Token) -> Result<(), F::Leave> {
        let state = self.state.lock();
        match state.sources.get(token) {
            Some(Source::Stream(stream)) if stream.state.is_untold() => {
                let handler = stream.handler.get();
                drop(state);
                handler.map_or(Ok(()), |handler| handler.connection_lost(cx))
            }
            Some(Source::Endpoint(endpoint)) if endpoint.state.is_untold() => {
                let handler = endpoint.handler.get();
                drop(state);
                handler.map_or(Ok(()), |handler| handler.connection_lost(cx))
            }
            _ => Ok(()),
        }
    }
}
