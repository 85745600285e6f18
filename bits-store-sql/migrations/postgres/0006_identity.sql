-- Which database this is, for what else belongs to it: the same in all its copies and backups.
CREATE TABLE identity (
    single SMALLINT PRIMARY KEY CHECK (single = 1),
    id     UUID     NOT NULL
);

INSERT INTO identity VALUES (1, gen_random_uuid());
