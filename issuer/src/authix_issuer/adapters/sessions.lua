-- One atomic step on one shard: its clock, the sessions of its subjects, its revocation log.
--
-- Every key carries the shard's hash tag. KEYS: 1 clock, 2 log (stream, ids are moments), 3 unpublished (sorted set of
-- moments), 4 the subject's sessions (sorted set, by expiry), 5 the session (hash), 6 the moment of the subject's last
-- revocation as a user, 7 the moment at which this very call ended the session (only of steps that can). ARGV[1] names the
-- step, ARGV[2] says how long in µs the log keeps an entry, ARGV[3] where to tell that it has grown.

local WINDOW_US = tonumber(ARGV[2])
local KEEP_EXPIRED_US = 7200 * 1000000 -- see ports.KEEP_EXPIRED_US
local CHANNEL = ARGV[3]
local RESENT_MS = 10000 -- longer than a call is sent again after its answer was lost

local function text(number)
    return string.format('%.0f', number)
end

-- The shard's strictly increasing clock.
local function tick()
    local now = redis.call('TIME')
    local last = tonumber(redis.call('GET', KEYS[1]) or '0')
    local t = math.max(now[1] * 1000000 + now[2], last + 1)
    redis.call('SET', KEYS[1], text(t))
    return t
end

local function forget_dead(t)
    redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', '(' .. text(t - WINDOW_US))
    redis.call('XTRIM', KEYS[2], 'MINID', text(t - WINDOW_US))
end

-- Append a revocation of the moment t, and tell whoever listens that the log has grown.
local function revoke(t, kind, subject, session, keep_s)
    local last_second = text(math.ceil(t / 1000000) + keep_s)
    redis.call('XADD', KEYS[2], text(t) .. '-0', 'kind', kind, 'sub', subject, 'sid', session, 'until', last_second)
    redis.call('ZADD', KEYS[3], text(t), text(t))
    if kind == 'user' then
        redis.call('SET', KEYS[6], text(t), 'PX', WINDOW_US / 1000)
    end
    forget_dead(t)
    redis.call('PEXPIRE', KEYS[2], WINDOW_US / 1000)
    redis.call('PEXPIRE', KEYS[3], WINDOW_US / 1000)
    redis.call('PUBLISH', CHANNEL, '')
end

local function forget_dead_sessions(t)
    redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', text(t - KEEP_EXPIRED_US))
end

local function end_session(session)
    redis.call('DEL', KEYS[5])
    redis.call('ZREM', KEYS[4], session)
end

-- A call whose answer was lost is sent again, and finds the session gone: it is to be told what it did.
local function remember_end(t)
    redis.call('SET', KEYS[7], text(t), 'PX', RESENT_MS)
end

local function ended_by_this_call()
    local ended_us = redis.call('GET', KEYS[7])
    return ended_us and tonumber(ended_us)
end

-- The session that is presented, or nil once it has ended. An empty secret hash presents it by an access token.
local function find(subject, secret_hash)
    local session = redis.call('HMGET', KEYS[5], 'subject', 'secret_hash', 'grants', 'counter', 'rotated_us', 'expires_us',
        'last_us', 'idle_us')
    if session[1] ~= subject then
        return nil
    end
    if secret_hash ~= '' and session[2] ~= secret_hash then
        return nil
    end
    return {
        grants = session[3],
        counter = tonumber(session[4]),
        rotated_us = tonumber(session[5]),
        expires_us = tonumber(session[6]),
        last_us = tonumber(session[7]),
        idle_us = tonumber(session[8]),
    }
end

-- When a session that is used at the moment t expires.
local function expiry(t, last_us, idle_us)
    return idle_us == 0 and last_us or math.min(last_us, t + idle_us)
end

-- Keep the session, and that it is one of its subject's, as long as a logout may need them.
local function keep(session, expires_us)
    local gone_ms = text(math.floor((expires_us + KEEP_EXPIRED_US) / 1000))
    redis.call('PEXPIREAT', KEYS[5], gone_ms)
    redis.call('ZADD', KEYS[4], text(expires_us), session)
    if redis.call('PEXPIRETIME', KEYS[4]) < tonumber(gone_ms) then
        redis.call('PEXPIREAT', KEYS[4], gone_ms)
    end
end

-- End the oldest of the subject's open sessions beyond the most that there may be; each is revoked at its own moment.
local function make_room(t, subject, session_prefix, most, keep_s)
    local ended = {}
    if most == 0 or redis.call('ZCOUNT', KEYS[4], '(' .. text(t), '+inf') <= most then
        return ended
    end
    local open = {}
    for _, id in ipairs(redis.call('ZRANGE', KEYS[4], '(' .. text(t), '+inf', 'BYSCORE')) do
        local opened_us = redis.call('HGET', session_prefix .. id, 'opened_us')
        if opened_us then
            table.insert(open, { id = id, opened_us = tonumber(opened_us) })
        else
            redis.call('ZREM', KEYS[4], id)
        end
    end
    table.sort(open, function(a, b) return a.opened_us > b.opened_us end)
    for place = most + 1, #open do
        local at_us = tick()
        revoke(at_us, 'session', subject, open[place].id, keep_s)
        redis.call('DEL', session_prefix .. open[place].id)
        redis.call('ZREM', KEYS[4], open[place].id)
        table.insert(ended, open[place].id)
        table.insert(ended, at_us)
    end
    return ended
end

local steps = {}

function steps.open(subject, session, secret_hash, grants, version, life_us, idle_us, agent, address, most, keep_s, prefix)
    local t = tick()
    local last_us = t + tonumber(life_us)
    local expires_us = expiry(t, last_us, tonumber(idle_us))
    redis.call('HSET', KEYS[5], 'subject', subject, 'secret_hash', secret_hash, 'grants', grants, 'version', version,
        'counter', 0, 'opened_us', text(t), 'rotated_us', 0, 'expires_us', text(expires_us), 'last_us', text(last_us),
        'idle_us', idle_us, 'agent', agent, 'address', address)
    forget_dead_sessions(t)
    keep(session, expires_us)
    return { t, expires_us, make_room(t, subject, prefix, tonumber(most), tonumber(keep_s)) }
end

function steps.refresh(subject, session, secret_hash, counter, grace_us, keep_s)
    local t = tick()
    local found = find(subject, secret_hash)
    if found == nil or found.expires_us <= t then
        local ended_us = ended_by_this_call()
        return ended_us and { 'reused', ended_us } or { 'unknown' }
    end
    counter = tonumber(counter)
    local outcome = 'repeated'
    if counter == found.counter then
        outcome = 'rotated'
        found.counter = counter + 1
        if found.idle_us == 0 then
            redis.call('HSET', KEYS[5], 'counter', text(found.counter), 'rotated_us', text(t))
        else
            found.expires_us = expiry(t, found.last_us, found.idle_us)
            redis.call('HSET', KEYS[5], 'counter', text(found.counter), 'rotated_us', text(t), 'expires_us',
                text(found.expires_us))
            keep(session, found.expires_us)
        end
    elseif counter ~= found.counter - 1 or t - found.rotated_us > tonumber(grace_us) then
        revoke(t, 'session', subject, session, tonumber(keep_s))
        remember_end(t)
        end_session(session)
        return { 'reused', t }
    end
    return { outcome, t, found.counter, found.grants, found.expires_us }
end

function steps.close(subject, session, secret_hash, scope, keep_s, session_prefix)
    local t = tick()
    if find(subject, secret_hash) == nil then
        return ended_by_this_call() or false
    end
    -- First: should a step fail midway, what it wrote before stays, and only a revocation too many is harmless.
    revoke(t, scope == 'session' and 'session' or 'user', subject, session, tonumber(keep_s))
    remember_end(t)
    if scope == 'user' or scope == 'session' then
        end_session(session)
        return t
    end
    for _, other in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
        if scope == 'all' or other ~= session then
            redis.call('DEL', session_prefix .. other)
            redis.call('ZREM', KEYS[4], other)
        end
    end
    return t
end

-- Bring the subject's sessions to a version of the account: end those that are to end, write the grants into the others.
function steps.settle(subject, _, session_prefix, grants, version, ending, kept, keep_s)
    local t = tick()
    revoke(t, 'user', subject, '', tonumber(keep_s))
    for _, session in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
        local key = session_prefix .. session
        local has = tonumber(redis.call('HGET', key, 'version') or '-1')
        if has < 0 or (ending == 'end' and session ~= kept and has < tonumber(version)) then
            redis.call('DEL', key)
            redis.call('ZREM', KEYS[4], session)
        elseif has < tonumber(version) then
            redis.call('HSET', key, 'grants', grants, 'version', version)
        end
    end
    return t
end

-- Whether the session has not ended and its subject was not revoked as a user since the moment.
function steps.is_live(subject, _, secret_hash, issued_us)
    local since = redis.call('GET', KEYS[6])
    if find(subject, secret_hash) == nil or (since and tonumber(issued_us) <= tonumber(since)) then
        return 0
    end
    return 1
end

-- The subject's open sessions, the one that expires last first.
function steps.list_open(_, _, session_prefix, limit)
    local t = tick()
    forget_dead_sessions(t)
    local open = {}
    for _, id in ipairs(redis.call('ZRANGE', KEYS[4], '+inf', '(' .. text(t), 'BYSCORE', 'REV', 'LIMIT', 0, limit)) do
        local found = redis.call('HMGET', session_prefix .. id, 'opened_us', 'rotated_us', 'expires_us', 'agent',
            'address')
        if found[1] then
            table.insert(open, { id, unpack(found) })
        else
            redis.call('ZREM', KEYS[4], id)
        end
    end
    return open
end

-- A signing key has no session and no subject; its id stands in the subject's place.
function steps.revoke_key(key_id, keep_s)
    local t = tick()
    revoke(t, 'key', key_id, '', tonumber(keep_s))
    return t
end

-- A moment of the clock, taken before the look at what is not yet published.
function steps.watermark()
    local t = tick()
    forget_dead(t)
    local oldest = redis.call('ZRANGE', KEYS[3], 0, 0)
    return { t, oldest[1] and tonumber(oldest[1]) or false }
end

-- Entries that nobody has published within the last age_us.
function steps.unpublished(age_us, limit)
    local t = tick()
    local moments = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', text(t - tonumber(age_us)), 'LIMIT', 0, limit)
    local entries = {}
    for _, moment in ipairs(moments) do
        local found = redis.call('XRANGE', KEYS[2], moment .. '-0', moment .. '-0')
        if found[1] then
            table.insert(entries, found[1])
        else
            redis.call('ZREM', KEYS[3], moment)
        end
    end
    return entries
end

return steps[ARGV[1]](unpack(ARGV, 4))
