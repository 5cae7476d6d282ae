#!/usr/bin/env bash
# A private MySQL for tests: loopback only, data under a directory of its own.
#
#   mysql.sh install VERSION      gets the server (9) and prints its bin directory
#   mysql.sh start VERSION DIR    creates DIR if absent and starts the server in it (again on the same port)
#   mysql.sh stop DIR [MODE]      fast (default), immediate (a crash)
#   mysql.sh serve VERSION        starts one in a scratch directory and waits for the end of standard input;
#                                 then stops and removes it: whoever holds the pipe cannot leave a server behind
#   mysql.sh follow DIR PORT      makes it a replica of the server at PORT, by GTID
#   mysql.sh promote DIR          lets it apply what it has received, and makes it a primary
#
# start and serve print BIN= (mysql, mysqlbinlog, ...), DIR=, CLIENT=, PORT=, URL=. The URL's user may replicate and
# read; root is without password on the socket DIR/sock. DIR/my.cnf is read at each start.
# For a new DIR: MYSQL_SERVER_ID=2, MYSQL_TLS=on (DIR/ca.crt is the authority), MYSQL_CONF="more lines of my.cnf".
#
# No package of Debian 12 has it. Debian's unstable suite does: its packages are unpacked in the cache and run by
# their own libc, whatever is the newest 9.x there.
set -euo pipefail

CACHE=${TRIBUTARY_CACHE:-/var/tmp/tributary}
KIND=mysql
HERE=$(dirname "$(realpath "$0")")
. "$HERE/lib.sh"

DEFAULTS="mysqlx = OFF
gtid_mode = ON
enforce_gtid_consistency = ON
innodb_redo_log_capacity = 64M
cte_max_recursion_depth = 100000000
secure_file_priv ="

USERS="CREATE USER tributary IDENTIFIED BY 'tributary';
GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT ON *.* TO tributary;"

install_server() {
  local program name
  [ "$1" = 9 ] || { echo "error: no MySQL $1 here: expected 9" >&2; exit 2; }
  BIN=$CACHE/servers/mysql-9
  if [ ! -x "$BIN/mysql" ]; then
    unpack_debian sid "$BIN" mysql-server-core mysql-client-core
    for program in "$BIN"/usr/bin/mysql*; do
      name=$(basename "$program")
      head -c 4 "$program" | grep -q ELF || continue
      printf '#!/bin/sh\nexec %s %s "$@"\n' "$(run_unpacked "$BIN")" "$program" >"$BIN/.$name"
      chmod 755 "$BIN/.$name"
    done
    for program in "$BIN"/.mysql*; do
      name=$(basename "$program")
      mv "$program" "$BIN/${name#.}"
    done
  fi
  read -ra SERVER <<<"$(run_unpacked "$BIN") $BIN/usr/sbin/mysqld"
  CLIENT=("$BIN/mysql")
  BASICS="basedir = $BIN/usr
lc_messages_dir = $BIN/usr/share/mysql
character_sets_dir = $BIN/usr/share/mysql/charsets
plugin_dir = $BIN/usr/lib/mysql/plugin"
}

initialize() { as_mysql "${SERVER[@]}" --defaults-file="$2" --initialize-insecure --skip-log-bin; }

follow() {
  sql "$1" -e "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = $2, SOURCE_USER = 'tributary',
    SOURCE_PASSWORD = 'tributary', SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1,
    SOURCE_CONNECT_RETRY = 1, SOURCE_RETRY_COUNT = 1000000;
    SET GLOBAL super_read_only = ON; START REPLICA"
}

promote() {
  local received
  sql "$1" -e "STOP REPLICA IO_THREAD"
  received=$(sql "$1" --vertical -e "SHOW REPLICA STATUS" | tr -d '\n' | sed -n 's/.*Retrieved_Gtid_Set: \(.*\) *Executed_Gtid_Set.*/\1/p' | tr -d ' ')
  sql "$1" -e "SELECT WAIT_FOR_EXECUTED_GTID_SET('$received', 60); STOP REPLICA; RESET REPLICA ALL; SET GLOBAL super_read_only = OFF, read_only = OFF" >/dev/null
}

. "$HERE/mysqld.sh"
