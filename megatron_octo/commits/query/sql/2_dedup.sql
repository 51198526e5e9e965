-- One row per commit, with all of its repositories and licences.
WITH repositories AS (
  SELECT DISTINCT b.commit, b.repo_name FROM base AS b
), joined_repositories AS (
  SELECT r.commit, STRING_AGG(r.repo_name, ',' ORDER BY r.repo_name) AS repos FROM repositories AS r GROUP BY r.commit
), terms AS (
  SELECT DISTINCT b.commit, b.license FROM base AS b
), joined_terms AS (
  SELECT t.commit, STRING_AGG(t.license, ',' ORDER BY t.license) AS license FROM terms AS t GROUP BY t.commit
), texts AS (
  SELECT b.commit, MIN(b.subject) AS subject, MIN(b.message) AS message FROM base AS b GROUP BY b.commit
)
SELECT x.commit, x.subject, x.message, r.repos, t.license
FROM texts AS x
JOIN joined_repositories AS r ON r.commit = x.commit
JOIN joined_terms AS t ON t.commit = x.commit
