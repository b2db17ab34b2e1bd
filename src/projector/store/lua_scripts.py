"""Lua scripts that fence every write: compare and set, nothing else.

A script refuses writes of an owner whose claim is no longer the newest. Clients repeat scripts
whose answers got lost; a repeated script answers like the first time. The fields of the partition
hash are named here and in docs/redis.md.
"""

from typing import Final

# KEYS: partition hash. ARGV: owner, the newest epoch that refused a view of this owner, then the
# rules of the owner: (field, value)...
# The clock keeps the epoch rising even after FLUSHALL has deleted the stored one.
CLAIM: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stored = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0') or 0
local epoch = math.max(stored + 1, now, ARGV[2] + 1)
local text = string.format('%.0f', epoch)
redis.call('HSET', KEYS[1], 'epoch', text, 'owner', ARGV[1], unpack(ARGV, 3))
return text
"""

# KEYS: token records. ARGV: partition (4 digits), version, then (record, expiry in ms) per key.
# Returns the newest version that refused a view ('' if none), and the positions of tokens that
# belong to another partition. Their records stay, so that no partition can disturb another.
# Malformed values are overwritten. A value between `floor` and `mine` is an older record of this
# partition or malformed; only others are parsed. (Epochs start with 0 until the year 2527.)
WRITE_VIEWS: Final = """
local call, pcall, ARGV = redis.call, redis.pcall, ARGV
local floor = ARGV[1] .. ' '
local mine = floor .. ARGV[2]
local newest = ''
local foreign = {}
for i, key in ipairs(KEYS) do
  local stored = pcall('GETRANGE', key, 4, 33)
  local partition, version
  if type(stored) == 'string' and stored ~= '' and (stored < floor or stored > mine) then
    partition, version = string.match(
      call('GETRANGE', key, 0, 34), '^%d%d%d (%d%d%d%d) (0%x+ %x+) $'
    )
  end
  if version and partition ~= ARGV[1] then
    foreign[#foreign + 1] = i
  elseif version and version > ARGV[2] then
    if version > newest then newest = version end
  else
    call('SET', key, ARGV[2 * i + 1], 'PXAT', ARGV[2 * i + 2])
  end
end
return {newest, foreign}
"""

# KEYS: one key. ARGV: the kind of the value that was compared ('none', 'string', 'other' for
# another type), its bytes, the new value ('' deletes), its expiry in ms. Returns 1 if it wrote.
REPAIR: Final = """
local held = redis.pcall('GET', KEYS[1])
local kind = not held and 'none' or type(held) == 'string' and 'string' or 'other'
if kind ~= ARGV[1] or kind == 'string' and held ~= ARGV[2] then return 0 end
if ARGV[3] == '' then
  redis.call('UNLINK', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[3], 'PXAT', ARGV[4])
end
return 1
"""

# The beginning of the scripts below. KEYS[1]: partition hash. ARGV: epoch, owner, revision.
_CLAIMED: Final = """
local held = redis.call('HMGET', KEYS[1], 'epoch', 'owner', 'revision')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then return 'claim' end
local revision = held[3] or '0'
"""

# KEYS: partition hash, facts hash. ARGV: epoch, owner, previous revision, new revision, number of
# facts then (-1 while more steps of the same checkpoint follow), number of further
# fields of the hash, (field, value)..., number of facts set, (field, fact)..., fields deleted...
CHECKPOINT: Final = (
    _CLAIMED
    + """
if revision == ARGV[4] then return 'ok' end
if revision ~= ARGV[3] then return 'revision' end
local at = 7
for _ = 1, ARGV[6] do
  redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
  at = at + 2
end
local sets = tonumber(ARGV[at])
at = at + 1
for _ = 1, sets do
  redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
  at = at + 2
end
for i = at, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
redis.call('HSET', KEYS[1], 'revision', ARGV[4], 'facts', ARGV[5])
return 'ok'
"""
)

# KEYS: partition hash, facts hash. ARGV: epoch, owner, the fields of the offsets and logs.
FORGET: Final = (
    _CLAIMED
    + """
redis.call('HDEL', KEYS[1], 'facts', unpack(ARGV, 3))
redis.call('UNLINK', KEYS[2])
return 'ok'
"""
)

# KEYS: partition hash. ARGV: epoch, owner, revision, T0 in ms.
STAMP: Final = (
    _CLAIMED
    + """
if revision ~= ARGV[3] then return 'revision' end
redis.call('HSET', KEYS[1], 'stamp', ARGV[4], 'stamp_epoch', ARGV[1])
return 'ok'
"""
)
