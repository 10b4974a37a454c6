-- The offers of one node: they are counted, and those that are closed make room for new ones.

CREATE INDEX offers_by_sender ON offers (sender, state, expires_at_us);
