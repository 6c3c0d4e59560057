-- Asks the sidecar about a request: `http-request lua.authix-verify URL`.
--
-- Rule: a request passes only by an answer of 200; every other answer goes to the client as it is. HAProxy's client
-- keeps nothing of an answer, and must not: a cache cannot see a logout.

local IDENTITY = { "x-authix-subject", "x-authix-session", "x-authix-roles" }
-- the token, and by what some services take a request for one of another method
local ASKED_WITH = { "authorization", "x-http-method-override", "x-http-method", "x-method-override" }
local GIVEN_BACK = { "content-type", "cache-control", "www-authenticate", "retry-after" }

-- HAProxy counts the values of a field from 0
local function values_of(fields, name)
    local found = {}
    for _, value in pairs(fields[name] or {}) do
        found[#found + 1] = value
    end
    return found
end

core.register_action("authix-verify", { "http-req" }, function(txn, verify)
    local asked = txn.http:req_get_headers()
    local question = {
        ["x-original-method"] = { txn.f:method() },
        ["x-original-uri"] = { txn.f:pathq() },
        ["x-original-host"] = values_of(asked, "host"),
    }
    for _, name in ipairs(ASKED_WITH) do
        if asked[name] then
            question[name] = values_of(asked, name)
        end
    end

    local answer = core.httpclient():get({ url = verify, headers = question, timeout = 2000 })

    if answer and answer.status == 200 then
        for _, name in ipairs(IDENTITY) do
            txn.http:req_set_header(name, values_of(answer.headers, name)[1] or "")
        end
        txn:set_var("txn.authix_passed", true)
        return
    end
    local refusal = txn:reply({ status = 503 })
    if answer and answer.status and answer.status >= 400 then
        refusal:set_status(answer.status)
        for _, name in ipairs(GIVEN_BACK) do
            for _, value in ipairs(values_of(answer.headers, name)) do
                refusal:add_header(name, value)
            end
        end
        refusal:set_body(answer.body or "")
    end
    txn:done(refusal)
end, 1)
