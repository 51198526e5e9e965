-- One row per file that was edited in place: neither made, removed, renamed, nor a link (120000) or submodule (160000).
WITH each_file AS (
  SELECT
    d.commit, d.subject, d.message, d.repos, d.license, d.author_name, d.author_email, d.committer_name,
    d.committer_email, d.time_sec, d.tz_offset, part
  FROM difference AS d CROSS JOIN UNNEST(d.difference) AS part
)
SELECT DISTINCT
  f.commit,
  f.subject,
  f.message,
  f.repos,
  f.license,
  f.author_name,
  f.author_email,
  f.committer_name,
  f.committer_email,
  f.time_sec,
  f.tz_offset,
  f.part.old_path AS old_file,
  f.part.new_path AS new_file,
  f.part.old_sha1 AS old_blob,
  f.part.new_sha1 AS new_blob
FROM each_file AS f
WHERE f.part.old_path = f.part.new_path
  AND NOT COALESCE(f.part.old_mode, 0) IN (40960, 57344)
  AND NOT COALESCE(f.part.new_mode, 0) IN (40960, 57344)
