-- Commits by repository: repositories with an accepted licence and language, messages that say something.
WITH named AS (
  SELECT c.commit, c.subject, c.message, repository AS repo_name
  FROM commits AS c CROSS JOIN UNNEST(c.repo_name) AS repository
), spoken AS (
  SELECT l.repo_name, spoken_language.name AS name
  FROM languages AS l CROSS JOIN UNNEST(l.language) AS spoken_language
), accepted AS (
  SELECT DISTINCT s.repo_name FROM spoken AS s
  WHERE s.name LIKE 'Perl%' OR s.name IN (
    'Python', 'Java', 'JavaScript', 'HTML', 'Common Lisp', 'Shell', 'R', 'SQL', 'C', 'C#', 'C++', 'TypeScript', 'Go',
    'Rust', 'Swift', 'PHP', 'Dart', 'Kotlin', 'Matlab', 'MATLAB', 'Ruby')
), licensed AS (
  SELECT DISTINCT i.repo_name, i.license FROM licenses AS i
  WHERE i.license IN (
    'mit', 'artistic-2.0', 'isc', 'cc0-1.0', 'epl-1.0', 'mpl-2.0', 'unlicense', 'apache-2.0', 'bsd-3-clause',
    'agpl-3.0', 'lgpl-2.1', 'bsd-2-clause')
), trimmed AS (
  -- White space at the ends goes by a pattern: TRIM means other characters in each engine. So does LOWER.
  SELECT
    n.commit,
    n.repo_name,
    COALESCE(REGEXP_REPLACE(n.subject, r'^[ \t\r\n]+|[ \t\r\n]+$', ''), '') AS subject,
    REGEXP_REPLACE(n.message, r'^[ \t\r\n]+|[ \t\r\n]+$', '') AS message
  FROM named AS n
), lowered AS (
  SELECT
    t.commit,
    t.repo_name,
    t.subject,
    t.message,
    TRANSLATE(t.message, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', 'abcdefghijklmnopqrstuvwxyz') AS lower_message
  FROM trimmed AS t
)
SELECT DISTINCT w.commit, w.subject, w.message, w.repo_name, d.license
FROM lowered AS w
JOIN accepted AS a ON a.repo_name = w.repo_name
JOIN licensed AS d ON d.repo_name = w.repo_name
WHERE CHAR_LENGTH(w.message) > 5 AND CHAR_LENGTH(w.message) < 10000
  AND NOT w.lower_message LIKE 'merge%'
  AND NOT w.lower_message IN (
    'update readme.md', 'initial commit', 'update', 'mirroring from micro.blog.', 'update data.json', 'update data.js',
    'add files via upload', 'update readme', "can't you see i'm updating the time?", 'pi push', 'dummy',
    'update index.html', 'first commit', 'create readme.md', 'heartbeat update', 'updated readme', 'update log', 'test',
    'no message', 'readme', 'wip', 'updates', 'commit', 'update _config.yaml')
