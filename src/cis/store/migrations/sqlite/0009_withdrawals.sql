-- How many runs of one sender are to be refused is asked for each that is withdrawn before it came.
CREATE INDEX withdrawals_by_sender ON withdrawals (sender);
