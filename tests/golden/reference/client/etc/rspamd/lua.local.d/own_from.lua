-- What a user sends says that it is from himself: the envelope is Postfix's to check, From: and Sender:, which people see,
-- are checked here, by the same list. A program that was told the wrong identity hears so at once.
local logger = require "rspamd_logger"

local function owners_in(file)
  return rspamd_config:add_map({ type = "hash", url = file, description = "the logins that may send as an address" })
end

local owners, guests = owners_in("/etc/postfix/owners"), owners_in("/run/guests/addresses")

-- As Postfix looks up an address: itself, without its detail, its domain.
local function logins(address)
  local user, domain = address:match("^(.*)@([^@]*)$")
  if not user then
    return nil
  end
  local plain = user:match("^([^+]+)%+") or user
  local own = plain .. "@" .. domain
  return owners:get_key(address) or owners:get_key(own) or guests:get_key(own) or owners:get_key("@" .. domain)
end

local function may_use(login, address)
  for owner in (logins(address:lower()) or ""):gmatch("[^,]+") do
    if owner == login then
      return true
    end
  end
  return false
end

-- The first address of the field that the login may not use; "" for what is no address. Nothing, when all is well.
local function foreign(task, field, login)
  local found = task:get_header_full(field)
  if not found or #found == 0 then
    return nil -- Postfix adds a missing From:, with the address of the envelope
  end
  local addresses = #found == 1 and require("rspamd_util").parse_mail_address(found[1].decoded, task:get_mempool())
  if not addresses or #addresses == 0 then
    return ""
  end
  for _, each in ipairs(addresses) do
    if not may_use(login, each.addr) then
      return each.addr
    end
  end
end

rspamd_config:register_symbol({
  name = "OWN_FROM",
  type = "prefilter",
  priority = 10,
  callback = function(task)
    local login = task:get_user()
    if not login then
      return
    end
    for _, field in ipairs({ "From", "Sender" }) do
      local address = foreign(task, field, login:lower())
      if address then
        logger.infox(task, "%s: %s may not send as %s", field, login, address)
        task:set_pre_result("reject", string.format("%s: <%s> is not an address of %s", field, address, login), "own_from")
        return
      end
    end
  end,
})
