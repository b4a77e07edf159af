#!/usr/bin/env bash
# Prints the home of a Java that Spark 4.2 runs on (17 or newer); exit 1 where there is none.
# Looks at JAVA_HOME, then PATH, then the places where systems keep their Javas, oldest fitting
# version first: Spark is tested on 17 and 21.
set -euo pipefail

readonly oldest=17

# The major version of a java command, 0 where it does not answer. "1.8.0_402" is 8.
major_version() {
    local line
    line=$("$1" -version 2>&1 </dev/null | grep -m1 -oE 'version "[0-9]+(\.[0-9]+)?' || true)
    line=${line#version \"}
    case "${line}" in
        1.*) echo "${line#1.}" ;;
        "") echo 0 ;;
        *) echo "${line%%.*}" ;;
    esac
}

fits() { [ -x "$1" ] && [ "$(major_version "$1")" -ge "${oldest}" ]; }

# The home a java command belongs to, asked of Java itself: launchers on PATH may be wrappers.
home_of() {
    "$1" -XshowSettings:properties -version 2>&1 </dev/null |
        sed -n 's/^ *java\.home = //p' | head -1
}

if [ -n "${JAVA_HOME:-}" ] && fits "${JAVA_HOME}/bin/java"; then
    echo "${JAVA_HOME}"
    exit 0
fi
if java=$(command -v java) && fits "${java}"; then
    home_of "${java}"
    exit 0
fi
for home in $(ls -d /usr/lib/jvm/* /opt/java/* /Library/Java/JavaVirtualMachines/*/Contents/Home \
    2>/dev/null | sort -V); do
    if fits "${home}/bin/java"; then
        echo "${home}"
        exit 0
    fi
done
exit 1
