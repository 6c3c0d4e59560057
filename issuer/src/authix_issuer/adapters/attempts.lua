-- Attempts at the passwords of one account; all keys carry one hash tag.
-- begin: count one on every key and return 0, or count none and return the milliseconds to wait.
-- withdraw: take one back.
-- ARGV: step, seconds to keep, longest delay in seconds, then for each key the attempts that are free.
local step, keep = ARGV[1], ARGV[2]

if step == 'withdraw' then
  for _, key in ipairs(KEYS) do
    if redis.call('EXISTS', key) == 1 then
      if redis.call('HINCRBY', key, 'failures', -1) > 0 then
        redis.call('HDEL', key, 'not_before')
      else
        redis.call('DEL', key)
      end
    end
  end
  return 0
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local wait = 0
for _, key in ipairs(KEYS) do
  wait = math.max(wait, tonumber(redis.call('HGET', key, 'not_before') or 0) - now)
end
if wait > 0 then return wait end
for i, key in ipairs(KEYS) do
  local over = redis.call('HINCRBY', key, 'failures', 1) - ARGV[3 + i]
  if over >= 0 then
    local delay = math.min(2 ^ math.min(over, 30), tonumber(ARGV[3]))
    redis.call('HSET', key, 'not_before', string.format('%.0f', now + delay * 1000))
  end
  redis.call('EXPIRE', key, keep)
end
return 0
