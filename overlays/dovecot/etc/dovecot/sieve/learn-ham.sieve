# A user says that this is none. What goes from Junk to Trash says nothing.
require ["vnd.dovecot.pipe", "copy", "imapsieve", "environment"];

if not environment :is "imap.mailbox" "Trash" {
    pipe :copy :try "learn" ["ham"];
}
