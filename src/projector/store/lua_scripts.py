"""Lua scripts that fence every write: compare and set, nothing else; one keeps a shared number.

A script refuses writes of an owner whose claim is no longer the newest. Clients repeat scripts
whose answers got lost; a repeated script answers like the first time. The fields of the partition
hash are named here and in docs/redis.md.
"""

from typing import Final

# KEYS: partition hash. ARGV: owner, the newest epoch that refused a view of this owner, the
# believed TIME in ms, then the settings of the owner: (field, value)...
# The time keeps the epoch rising even after FLUSHALL has deleted the stored one. It is not TIME at
# this moment: a clock that jumps by centuries would use up the epochs. A key of another type is no
# claim, and is written anew. A source that the former owner noted as silent is removed. Returns the
# epoch, and the sources of the claim before, if it stored any.
CLAIM: Final = """
local held = redis.pcall('HGET', KEYS[1], 'epoch')
if type(held) == 'table' and string.find(tostring(held.err), 'WRONGTYPE', 1, true) then
  redis.call('UNLINK', KEYS[1])
end
local stored = type(held) == 'string' and tonumber(held) or 0
local epoch = math.max(stored + 1, tonumber(ARGV[3]), ARGV[2] + 1)
local text = string.format('%.0f', epoch)
local sources = redis.call('HGET', KEYS[1], 'sources')
redis.call('HSET', KEYS[1], 'epoch', text, 'owner', ARGV[1], unpack(ARGV, 4))
redis.call('HDEL', KEYS[1], 'silent')
return {text, sources}
"""

# KEYS: the key of the number of partitions. ARGV: the number, the highest one. Returns 1 if it
# wrote: the key was missing, or held anything else than such a number. Another number stays.
KEEP_COUNT: Final = """
local held = redis.pcall('GET', KEYS[1])
if type(held) == 'string' and #held <= #ARGV[2] and string.match(held, '^[0-9]+$') then
  local number = tonumber(held)
  if number > 0 and number <= tonumber(ARGV[2]) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""

# Needs `partition` (4 digits) and `version`. Returns what keeps another value from being written to
# a key: the newer version there, 'foreign' for a record of another partition, or 'pointer' for
# another pointer than the value. These stay: no partition can disturb another, and a pointer has no
# version that would refuse a value which comes late. Other values are overwritten. A value between
# `floor` and `mine` is an older record of this partition or malformed; only others are parsed.
# (Epochs start with 0 until the year 2527.) The globals are locals, which long writes notice.
_OBSTACLE: Final = """
local call, pcall, KEYS, ARGV = redis.call, redis.pcall, KEYS, ARGV
local floor = partition .. ' '
local mine = floor .. version
local function obstacle(key, value)
  local stored = pcall('GETRANGE', key, 4, 33)
  if type(stored) ~= 'string' or stored == '' or stored >= floor and stored <= mine then return end
  local whole = call('GETRANGE', key, 0, 64)
  local theirs, newer = string.match(
    string.sub(whole, 1, 35), '^%d%d%d (%d%d%d%d) (0%x+ %x+) $'
  )
  if newer and theirs ~= partition then return 'foreign' end
  if newer and newer > version then return newer end
  if #whole == 64 and whole ~= value and string.match(whole, '^%x+$') then return 'pointer' end
end
"""

# KEYS: records, and keys of jobs that get pointers. ARGV: partition (4 digits), version, then
# (record or digest, expiry in ms) per key. Returns the newest version that refused a value ('' if
# none), the positions of keys with a record of another partition, and those of keys with another
# pointer than the value.
WRITE_VIEWS: Final = (
    """
local partition, version = ARGV[1], ARGV[2]
"""
    + _OBSTACLE
    + """
local newest = ''
local foreign, pointers = {}, {}
for i, key in ipairs(KEYS) do
  local found = obstacle(key, ARGV[2 * i + 1])
  if not found then
    call('SET', key, ARGV[2 * i + 1], 'PXAT', ARGV[2 * i + 2])
  elseif found == 'foreign' then
    foreign[#foreign + 1] = i
  elseif found == 'pointer' then
    pointers[#pointers + 1] = i
  elseif found > newest then
    newest = found
  end
end
return {newest, foreign, pointers}
"""
)

# KEYS: the overlay. ARGV: partition (4 digits), version, the partition's new lines of which none is
# newer ('' removes those that are there), expiry in ms. Returns the epoch of a newer line, or ''.
# Lines of the partition then stay: this is a replaced owner, or an attempt that comes late. Not the
# claim is compared: in a cluster the partition hash is on another server. Malformed lines go. An
# epoch beyond the year 2527 counts as malformed: the next claim would have to go beyond it.
SET_OVERLAY: Final = """
local held = redis.pcall('GET', KEYS[1])
local digit = '[0-9a-f]'
local head = '^(%d%d%d%d) (0' .. digit:rep(11) .. ') (' .. digit:rep(12) .. ') '
local lines = {}
for line in string.gmatch(type(held) == 'string' and held or '', '[^\\n]+') do
  local partition, epoch, revision = string.match(line, head)
  if partition == ARGV[1] then
    if epoch .. ' ' .. revision > ARGV[2] then return epoch end
  elseif partition then
    lines[#lines + 1] = line .. '\\n'
  end
end
local others = table.concat(lines)
if ARGV[3] ~= '' then
  redis.call('SET', KEYS[1], others .. ARGV[3], 'PX', ARGV[4])
elseif others ~= '' then
  redis.call('SET', KEYS[1], others, 'KEEPTTL')
elseif held then
  redis.call('UNLINK', KEYS[1])
end
return ''
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

# The beginning of the scripts below. KEYS[1]: partition hash. ARGV: epoch, owner, revision. A key
# of another type holds no claim: the owner claims again, and so writes it anew.
_CLAIMED: Final = """
local held = redis.pcall('HMGET', KEYS[1], 'epoch', 'owner', 'revision')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then return 'claim' end
local revision = held[3] or '0'
"""

# KEYS: partition hash, facts hash, then those of records and pointers that are written with the
# checkpoint. ARGV: epoch, owner, previous revision, new revision, partition (4 digits), version,
# (record or digest, expiry in ms) per key behind the second, number of facts then (-1 while more
# steps of the same checkpoint follow), number of further fields of the hash, (field, value)...,
# number of facts set, (field, fact)..., fields deleted...
# Returns 'obstacle', and writes nothing at all, if one of the records or pointers must stay.
# A facts hash of another type is refused, here and with a stamp: then the owner writes all facts.
CHECKPOINT: Final = (
    _CLAIMED
    + """
if revision == ARGV[4] then return 'ok' end
if revision ~= ARGV[3] then return 'revision' end
if type(redis.pcall('HLEN', KEYS[2])) == 'table' then return 'facts' end
local partition, version = ARGV[5], ARGV[6]
"""
    + _OBSTACLE
    + """
for i = 3, #KEYS do
  if obstacle(KEYS[i], ARGV[2 * i + 1]) then return 'obstacle' end
end
for i = 3, #KEYS do call('SET', KEYS[i], ARGV[2 * i + 1], 'PXAT', ARGV[2 * i + 2]) end
local at = 2 * #KEYS + 3
local places = at + 2
local sets = places + 2 * ARGV[at + 1]
local deletes = sets + 1 + 2 * ARGV[sets]
if deletes > sets + 1 then call('HSET', KEYS[2], unpack(ARGV, sets + 1, deletes - 1)) end
if #ARGV >= deletes then call('HDEL', KEYS[2], unpack(ARGV, deletes)) end
call(
  'HSET', KEYS[1], 'revision', ARGV[4], 'facts', ARGV[at], unpack(ARGV, places, sets - 1)
)
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

# KEYS: partition hash, facts hash. ARGV: epoch, owner, revision, T0 in ms, the identity of the
# server that has the owner's views, the believed TIME in ms, the tolerance in ms. An empty identity
# or time is not compared. A failover or a jump may come after the probe, so it is not enough there.
STAMP: Final = (
    _CLAIMED
    + """
if revision ~= ARGV[3] then return 'revision' end
if ARGV[5] ~= '' then
  local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  local log = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
  if ARGV[5] ~= run .. ' ' .. log then return 'server' end
end
if type(redis.pcall('HLEN', KEYS[2])) == 'table' then return 'facts' end
if ARGV[6] ~= '' then
  local time = redis.call('TIME')
  local ahead = time[1] * 1000 + time[2] / 1000 - ARGV[6]
  if math.abs(ahead) > tonumber(ARGV[7]) then return 'clock' end
end
redis.call('HSET', KEYS[1], 'stamp', ARGV[4], 'stamp_epoch', ARGV[1])
redis.call('HDEL', KEYS[1], 'silent')
return 'ok'
"""
)

# KEYS: partition hash. ARGV: epoch, owner, the source that stamps wait for and since when. TIME of
# the note is added: no owner may be left to remove it.
SILENCE: Final = (
    _CLAIMED
    + """
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('HSET', KEYS[1], 'silent', ARGV[3] .. ' ' .. now)
return 'ok'
"""
)
