-- Times are UTC text with microseconds, so that they sort and read well.

-- The ledger: who bakes, and what must be given back.
CREATE TABLE bake (
	id          TEXT PRIMARY KEY,
	name        TEXT NOT NULL,
	image       TEXT NOT NULL,
	template    TEXT NOT NULL,
	host        TEXT NOT NULL,
	boot_id     TEXT NOT NULL,
	pid         INTEGER NOT NULL,
	start_ticks INTEGER NOT NULL,
	started     TEXT NOT NULL,
	ended       TEXT,
	outcome     TEXT NOT NULL DEFAULT '' CHECK (outcome IN ('', 'success', 'failed', 'cancelled', 'swept')),
	CHECK ((ended IS NULL) = (outcome = ''))
) STRICT;
CREATE INDEX bake_open ON bake (started) WHERE ended IS NULL;

CREATE TABLE lease (
	id          TEXT PRIMARY KEY,
	bake        TEXT NOT NULL REFERENCES bake (id),
	builder     TEXT NOT NULL,
	kind        TEXT NOT NULL,
	name        TEXT NOT NULL,
	external_id TEXT NOT NULL DEFAULT '',
	data        TEXT,
	created     TEXT NOT NULL,
	released    TEXT
) STRICT;
CREATE INDEX lease_open ON lease (id) WHERE released IS NULL;

-- Images. "last" only grows: the number of a deleted version is not given again.
CREATE TABLE image (
	name    TEXT PRIMARY KEY,
	last    INTEGER NOT NULL,
	created TEXT NOT NULL
) STRICT;

CREATE TABLE version (
	image          TEXT NOT NULL REFERENCES image (name),
	number         INTEGER NOT NULL CHECK (number > 0),
	fingerprint    TEXT NOT NULL,
	template       TEXT NOT NULL,
	labels         TEXT,
	status         TEXT NOT NULL CHECK (status IN ('ready', 'incomplete')),
	rollout        TEXT,
	parent_version TEXT NOT NULL,
	spec_summary   TEXT,
	created        TEXT NOT NULL,
	PRIMARY KEY (image, number)
) STRICT;

CREATE TABLE artifact (
	image       TEXT NOT NULL,
	number      INTEGER NOT NULL,
	platform    TEXT NOT NULL CHECK (platform <> ''),
	region      TEXT NOT NULL,
	external_id TEXT NOT NULL CHECK (external_id <> ''),
	source      TEXT NOT NULL,
	digest      TEXT NOT NULL,
	location    TEXT NOT NULL,
	builder_id  TEXT NOT NULL,
	bake        TEXT NOT NULL,
	PRIMARY KEY (image, number, platform, region, external_id, source),
	FOREIGN KEY (image, number) REFERENCES version (image, number) ON DELETE CASCADE
) STRICT;

CREATE TABLE channel (
	image   TEXT NOT NULL,
	name    TEXT NOT NULL,
	version INTEGER NOT NULL,
	rev     INTEGER NOT NULL,
	since   TEXT NOT NULL,
	PRIMARY KEY (image, name),
	FOREIGN KEY (image, version) REFERENCES version (image, number)
) STRICT;

-- from_version is 0 for a channel's first event. Versions named here may have
-- been deleted since.
CREATE TABLE channel_event (
	image        TEXT NOT NULL REFERENCES image (name),
	seq          INTEGER NOT NULL,
	channel      TEXT NOT NULL,
	rev          INTEGER NOT NULL,
	from_version INTEGER NOT NULL,
	to_version   INTEGER NOT NULL,
	forced       INTEGER NOT NULL,
	actor        TEXT NOT NULL,
	reason       TEXT NOT NULL,
	at           TEXT NOT NULL,
	prev_hash    TEXT NOT NULL,
	hash         TEXT NOT NULL,
	PRIMARY KEY (image, seq),
	UNIQUE (image, channel, rev)
) STRICT;
CREATE TRIGGER channel_event_update BEFORE UPDATE ON channel_event
BEGIN SELECT RAISE(ABORT, 'the history of channels is append-only'); END;
CREATE TRIGGER channel_event_delete BEFORE DELETE ON channel_event
BEGIN SELECT RAISE(ABORT, 'the history of channels is append-only'); END;

-- Rollouts.
CREATE TABLE service (
	name    TEXT PRIMARY KEY,
	rev     INTEGER NOT NULL,
	doc     TEXT NOT NULL,
	updated TEXT NOT NULL
) STRICT;

CREATE TABLE service_event (
	service TEXT NOT NULL REFERENCES service (name),
	rev     INTEGER NOT NULL,
	event   TEXT NOT NULL,
	at      TEXT NOT NULL,
	PRIMARY KEY (service, rev)
) STRICT;
CREATE TRIGGER service_event_update BEFORE UPDATE ON service_event
BEGIN SELECT RAISE(ABORT, 'the history of services is append-only'); END;
CREATE TRIGGER service_event_delete BEFORE DELETE ON service_event
BEGIN SELECT RAISE(ABORT, 'the history of services is append-only'); END;
