-- Passwords for one program each. The command mailbox-password writes them: one "name hash" per line, in a file per
-- address; one that is lost is taken back without a change for the other programs.
local FOLDER = "/var/lib/mailbox-passwords/apps/"

function auth_passdb_lookup(request)
  -- the hashes are not for other hosts to check
  return dovecot.auth.PASSDB_RESULT_USER_UNKNOWN, nil
end

function auth_password_verify(request, password)
  local user = request.user
  -- as addresses of mailboxes are; nothing else becomes part of a path
  if not user:find("^[%w_][%w._-]*@[%w.-]+$") then
    return dovecot.auth.PASSDB_RESULT_USER_UNKNOWN, nil
  end
  local file = io.open(FOLDER .. user, "r")
  if not file then
    return dovecot.auth.PASSDB_RESULT_USER_UNKNOWN, nil
  end
  for line in file:lines() do
    local hash = line:match("^%S+ (%S+)$")
    if hash and request:password_verify(hash, password) == 1 then
      file:close()
      return dovecot.auth.PASSDB_RESULT_OK, {}
    end
  end
  file:close()
  -- his own password may still be right
  return dovecot.auth.PASSDB_RESULT_NEXT, nil
end
