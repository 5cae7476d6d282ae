#!/usr/bin/env bash
# A private MariaDB for tests: loopback only, data under a directory of its own.
#
#   mariadb.sh install VERSION      gets the server (10.11 or 11.8) and prints its bin directory
#   mariadb.sh start VERSION DIR    creates DIR if absent and starts the server in it (again on the same port)
#   mariadb.sh stop DIR [MODE]      fast (default), immediate (a crash)
#   mariadb.sh serve VERSION        starts one in a scratch directory and waits for the end of standard input;
#                                   then stops and removes it: whoever holds the pipe cannot leave a server behind
#   mariadb.sh follow DIR PORT      makes it a replica of the server at PORT, by GTID
#   mariadb.sh promote DIR          lets it apply what it has received, and makes it a primary
#
# start and serve print BIN=, DIR=, CLIENT=, PORT=, URL=. The URL's user may replicate and read; root is without
# password on the socket DIR/sock. DIR/my.cnf is read at each start.
# For a new DIR: MYSQL_SERVER_ID=2, MYSQL_TLS=on (DIR/ca.crt is the authority), MYSQL_CONF="more lines of my.cnf".
#
# 10.11 is Debian 12's package, without its service; 11.8 is Debian 13's, unpacked in the cache and run by its own libc.
set -euo pipefail

CACHE=${TRIBUTARY_CACHE:-/var/tmp/tributary}
KIND=mariadb
HERE=$(dirname "$(realpath "$0")")
. "$HERE/lib.sh"

DEFAULTS="binlog_format = ROW
gtid_strict_mode = ON
log_slave_updates = ON
character_set_server = utf8mb4
innodb_log_file_size = 64M
max_recursive_iterations = 100000000
aria_log_file_size = 8M
aria_pagecache_buffer_size = 16M
key_buffer_size = 8M"

USERS="CREATE USER tributary IDENTIFIED BY 'tributary';
GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT ON *.* TO tributary;"

install_server() {
  if [ "$1" = 10.11 ] && ! command -v mariadbd >/dev/null; then
    apt_install mariadb-server-core mariadb-client-core
  elif ! command -v mariadb >/dev/null; then
    apt_install mariadb-client-core
  fi
  CLIENT=(mariadb)
  case $1 in
    10.11)
      BIN=/usr/bin
      SERVER=(mariadbd)
      SHARE=/usr/share/mysql
      BASICS= ;;
    11.8)
      BIN=$CACHE/servers/mariadb-11.8
      [ -x "$BIN/usr/sbin/mariadbd" ] || unpack_debian trixie "$BIN" mariadb-server-core
      read -ra SERVER <<<"$(run_unpacked "$BIN") $BIN/usr/sbin/mariadbd"
      SHARE=$BIN/usr/share/mariadb
      BASICS="basedir = $BIN/usr
lc_messages_dir = $SHARE
character_sets_dir = $SHARE/charsets
plugin_dir = $BIN/usr/lib/mysql/plugin" ;;
    *)
      echo "error: no MariaDB $1 here: expected 10.11 or 11.8" >&2
      exit 2 ;;
  esac
}

# What mariadb-install-db does; that of 11.8 would run programs of another libc.
initialize() {
  as_mysql mkdir "$1/mysql"
  {
    echo "USE mysql;"
    cat "$SHARE"/mysql_system_tables.sql "$SHARE"/mysql_performance_tables.sql "$SHARE"/mysql_system_tables_data.sql 2>/dev/null ||
      cat "$SHARE"/mariadb_system_tables.sql "$SHARE"/mariadb_performance_tables.sql "$SHARE"/mariadb_system_tables_data.sql
  } | sed '/@current_hostname/d' | as_mysql "${SERVER[@]}" --defaults-file="$2" --bootstrap --log-warnings=0 \
    --skip-log-bin --enforce-storage-engine= --max-allowed-packet=16M --net-buffer-length=16K
}

follow() {
  sql "$1" -e "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = $2, MASTER_USER = 'tributary',
    MASTER_PASSWORD = 'tributary', MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1;
    SET GLOBAL read_only = ON; START SLAVE"
}

promote() {
  local received
  sql "$1" -e "STOP SLAVE IO_THREAD"
  received=$(sql "$1" --vertical -e "SHOW SLAVE STATUS" | sed -n 's/^ *Gtid_IO_Pos: *//p')
  sql "$1" -e "SELECT MASTER_GTID_WAIT('$received', 60); STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = OFF" >/dev/null
}

. "$HERE/mysqld.sh"
