-- What the machine has too little of for a worker, or one of its tasks, to start; empty while nothing is short.

ALTER TABLE workers ADD COLUMN short_of TEXT;
