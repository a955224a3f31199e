#!/bin/sh
# Prints users.acl with the passwords in it, as their SHA-256:
#
#   REDIS_ADMIN_PASSWORD=... REDIS_TRADER_PASSWORD=... sh users.sh [NAMESPACE] > /etc/redis/users.acl
#
# The password of `dashboard-actions` is in REDIS_DASHBOARD_ACTIONS_PASSWORD, or in the file that
# REDIS_DASHBOARD_ACTIONS_PASSWORD_FILE names; a user without a password is left out. With a namespace, keys and
# users begin with it (`desk1:risk:...`, `desk1-trader`); run it once for each, and once without for `admin`.
set -eu

namespace=${1:-}
case $namespace in *[!A-Za-z0-9._-]*) echo "A namespace is of a-z, A-Z, 0-9, - _ and ." >&2; exit 2 ;; esac

digest() {
    if command -v sha256sum > /dev/null; then sha256sum; else shasum -a 256; fi | cut -c 1-64
}

while read -r line; do
    name=$(printf %s "$line" | cut -d " " -f 2)
    if [ "$name" = default ] || { [ "$name" = admin ] && [ -n "$namespace" ]; }; then
        [ -n "$namespace" ] || printf '%s\n' "$line"
        continue
    fi
    variable=REDIS_$(printf %s "$name" | tr a-z- A-Z_)_PASSWORD
    eval "password=\${$variable:-} file=\${${variable}_FILE:-}"
    [ -z "$file" ] || password=$(cat "$file")
    [ -n "$password" ] || continue
    hash=$(printf %s "$password" | digest)
    line=$(printf %s "$line" | sed "s/#PASSWORD_OF_$name /#$hash /")
    if [ -n "$namespace" ]; then
        line=$(printf %s "$line" | sed "s/^user /user $namespace-/; s/\\([~&]\\)r/\\1$namespace:r/g")
    fi
    printf '%s\n' "$line"
done < "$(dirname "$0")/users.acl"
