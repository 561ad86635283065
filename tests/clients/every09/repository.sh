# Makes the repository /srv/repo: a branch, a tag, and a commit before them.
set -e
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
export GIT_AUTHOR_DATE="2023-10-01T00:00:00Z" GIT_COMMITTER_DATE="2023-10-01T00:00:00Z"
git init --quiet --initial-branch main /srv/repo
cd /srv/repo
git config uploadpack.allowAnySHA1InWant true
echo one > file
git add file
git commit --quiet --message one
git rev-parse HEAD > /srv/first
git tag v1
echo two > file
git commit --quiet --all --message two
