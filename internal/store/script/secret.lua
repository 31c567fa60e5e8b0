-- secret.lua: reads the secret that all replicas share, or stores it if there is none.
-- KEYS: 1 secret
-- ARGV: 1 the secret to store if there is none, or ''
-- Reply: the secret, or '' if there is none
--
-- The first write is one that a full Redis accepts. A secret that can't be read counts
-- as lost.
redis.call('PERSIST', KEYS[1])
local secret = redis.pcall('GET', KEYS[1])
if type(secret) ~= 'string' or secret == '' then
  secret = ARGV[1]
  if secret ~= '' then redis.call('SET', KEYS[1], secret) end
end
return secret
