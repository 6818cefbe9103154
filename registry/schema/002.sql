-- What machines made from a version are to be like, for each bake ("source") in
-- parts. Versions share parts that are the same.
CREATE TABLE fact_blob (
	digest TEXT PRIMARY KEY, -- SHA-256 of what data holds, in hexadecimal
	data   BLOB NOT NULL     -- compressed with zstd
) STRICT;

CREATE TABLE fact (
	image  TEXT NOT NULL,
	number INTEGER NOT NULL,
	source TEXT NOT NULL,
	part   TEXT NOT NULL CHECK (part <> ''),
	digest TEXT NOT NULL REFERENCES fact_blob (digest),
	PRIMARY KEY (image, number, source, part),
	FOREIGN KEY (image, number) REFERENCES version (image, number) ON DELETE CASCADE
) STRICT;
CREATE INDEX fact_digest ON fact (digest);
