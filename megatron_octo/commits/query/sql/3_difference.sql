-- The differences, which cannot be grouped, come back; a difference that was cut off would hide files.
SELECT
  d.commit,
  d.subject,
  d.message,
  d.repos,
  d.license,
  c.difference,
  c.author.name AS author_name,
  c.author.email AS author_email,
  c.committer.name AS committer_name,
  c.committer.email AS committer_email,
  c.committer.time_sec AS time_sec,
  c.committer.tz_offset AS tz_offset
FROM dedup AS d
JOIN commits AS c ON c.commit = d.commit
WHERE NOT COALESCE(c.difference_truncated, FALSE)
