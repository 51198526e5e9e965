-- Commits that edit exactly one file. Files that they add, remove or rename do not count, as in what was published.
WITH single AS (
  SELECT f.commit FROM files AS f GROUP BY f.commit HAVING COUNT(*) = 1
)
SELECT f.*
FROM files AS f
JOIN single AS s ON s.commit = f.commit
