#!/bin/sh
# Makes the password of Redis, once, and the two files in which the server and Redis
# read it:
#
#   /secrets/redis_password   user:password, for PRESENCE_REDIS_PASSWORD_FILE
#   /secrets/users.acl        users.acl with the password's hash, for redis.conf
#
# Both are in a volume that only Redis and the server mount. To change the password
# remove redis_password, or write another into it, and start all services again.
# users.acl is made anew at each start, so a newer template takes effect.
set -eu
umask 022
cd /secrets
if [ ! -s redis_password ]; then
  password=$(head -c 32 /dev/urandom | sha256sum | cut -d ' ' -f 1)
  printf 'presence:%s\n' "$password" >redis_password.new
  mv redis_password.new redis_password
fi
password=$(cut -d : -f 2- redis_password)
hash=$(printf %s "$password" | sha256sum | cut -d ' ' -f 1)
sed "s/@PASSWORD_SHA256@/$hash/" /template/users.acl >users.acl.new
mv users.acl.new users.acl
